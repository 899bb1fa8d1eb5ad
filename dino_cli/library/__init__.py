"""`import dino_cli`: the work of the commands on Python's own values.

Errors are `dino_cli.errors.TaskError` and `UsageError`, one sentence each.
"""

from dino_cli.library.features import Features, embed
from dino_cli.library.masks import Masks, attention_masks
from dino_cli.library.model import Model, load_model
from dino_cli.library.neighbors import Neighbors, knn

__all__ = [
    "Features",
    "Masks",
    "Model",
    "Neighbors",
    "attention_masks",
    "embed",
    "knn",
    "load_model",
]
