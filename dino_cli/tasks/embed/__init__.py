"""`dino embed`: one module for the way in, the forward pass, what is shared, and the way out."""

from dino_cli.tasks.embed.forward import EmbedResult, embed_batches, embed_files, nothing_read
from dino_cli.tasks.embed.options import model_facts
from dino_cli.tasks.embed.run import embed

__all__ = ["EmbedResult", "embed", "embed_batches", "embed_files", "model_facts", "nothing_read"]
