"""`dino weights`."""
