"""`dino attention`: `run` is the task, `look` asks the network, `stills` and `videos` go on."""
