"""`dino train`: `run` is the loop; the other rooms check, feed, set up, describe and keep a run."""
