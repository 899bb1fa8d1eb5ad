"""`dino demo`."""

from typing import Any

from dino_cli.cli.app import app
from dino_cli.cli.display import Terminal
from dino_cli.cli.options import command
from dino_cli.config import DemoConfig


@command(app, "demo", DemoConfig)
def demo(config: DemoConfig, terminal: Terminal) -> dict[str, Any] | None:
    """TODO"""
    return None
