"""`dino train`."""
