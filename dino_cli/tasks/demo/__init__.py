"""`dino demo`: draw, look, score, show, and repeat the training."""
