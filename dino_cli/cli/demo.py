"""`dino demo`."""

from typing import Any

from dino_cli.cli.app import app
from dino_cli.cli.display import Terminal
from dino_cli.cli.options import command
from dino_cli.config import DemoConfig


@command(app, "demo", DemoConfig)
def demo(config: DemoConfig, terminal: Terminal) -> dict[str, Any] | None:
    """See a ViT that learned without labels find objects: offline, in minutes.

    Draws its own images, uses the backbone that ships with dino, and leaves demo/index.html.
    """
    if config.images is not None:
        from dino_cli.tasks.draw import draw_folder

        draw_folder(
            config.images,
            count=config.count,
            size=config.size,
            seed=config.seed,
            style=config.style,
            reporter=terminal,
        )
        terminal.line(f"{config.images}: {config.count} images with masks")
        return {"folder": str(config.images), "count": config.count}
    return None
