"""`dino pca`: `run` is the task, `features` asks the network, `work` takes the inputs along."""
