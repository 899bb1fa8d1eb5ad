"""`dino map`: one module for the way in and the still picture, one for the site."""

from dino_cli.tasks.map.run import draw_map

__all__ = ["draw_map"]
