"""`dino pca`: `run` is the task, `features` asks the network, `sources` gives photos and frames."""
