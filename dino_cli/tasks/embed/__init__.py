"""`dino embed`: `run` decides what there is to do, `share` does a process's part, `merge` joins."""
