"""`dino map`: `run` is the way in and the still picture, `site` the one to walk about in."""
