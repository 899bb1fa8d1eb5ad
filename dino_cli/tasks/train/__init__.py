"""`dino train`: `run` sets a run up and `loop` runs it; the others check, feed, keep, resume it."""
