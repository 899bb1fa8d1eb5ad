"""`dino bench`: ours and the original's way, measured in turn on the same machine."""
