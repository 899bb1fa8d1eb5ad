"""`dino map`."""

import shlex
from typing import Any

from dino_cli.cli.app import app
from dino_cli.cli.display import Terminal
from dino_cli.cli.options import command
from dino_cli.config.map import MapConfig
from dino_cli.config.values import counted


@command(app, "map", MapConfig)
def map_(config: MapConfig, terminal: Terminal) -> dict[str, Any]:
    """Show embedded pictures as a map: those that look alike to the network lie together.

    A .png is a still picture with thumbnails, coloured by class. A folder becomes a site to zoom
    and search in, made by Embedding Atlas; any web server can show it.

    Example: dino map feats.npy -o map.png
    """
    from dino_cli.tasks.map.run import draw_map

    result = draw_map(config, terminal)
    shown = f", {result['thumbnails']} shown" if result["thumbnails"] is not None else ""
    terminal.line(
        f"{result['output']}: {counted(result['count'], 'picture')}{shown},"
        f" by {result['method'].upper()}, {result['seconds']:.1f} s"
    )
    if result["site"]:
        folder = shlex.quote(result["output"])
        terminal.line(f"look at it: python3 -m http.server --directory {folder}")
    return result
