"""`dino attention`: `run` looks, `photos` reads and groups what is looked at."""
