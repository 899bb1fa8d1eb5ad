"""`dino attention`."""

from typing import Any

from dino_cli.cli.app import app
from dino_cli.cli.display import Terminal
from dino_cli.cli.options import command
from dino_cli.config import AttentionConfig


@command(app, "attention", AttentionConfig)
def attention(config: AttentionConfig, terminal: Terminal) -> dict[str, Any] | None:
    """TODO"""
    return None
