"""`dino pca`: `run` is the task, `features` asks the network, `fitting` whom, `drawing` goes on."""
