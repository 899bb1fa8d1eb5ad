"""`dino embed`."""

from typing import Any

from dino_cli.cli.app import app
from dino_cli.cli.display import Terminal
from dino_cli.cli.options import command
from dino_cli.config import EmbedConfig


@command(app, "embed", EmbedConfig)
def embed(config: EmbedConfig, terminal: Terminal) -> dict[str, Any] | None:
    """TODO"""
    return None
