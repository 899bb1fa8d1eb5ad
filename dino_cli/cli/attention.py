"""`dino attention`."""

from typing import Any

from dino_cli.cli.app import app
from dino_cli.cli.display import Terminal
from dino_cli.cli.options import command
from dino_cli.config.attention import AttentionConfig


@command(app, "attention", AttentionConfig)
def attention(config: AttentionConfig, terminal: Terminal) -> dict[str, Any] | None:
    """Turn a ViT's attention into heat maps and masks, a folder for each image.

    cat.jpg gives OUT/cat/: attention.npy (heads, rows, columns), a heat map,
    a mask and an overlay for each head, and grid.png with all heads side by
    side. For the best masks: --masks seeded --refine guided.
    """
    from dino_cli.tasks.attention.run import attention as task

    result = task(config, terminal)
    terminal.table(
        "",
        ["image", "folder", "patches", "best head"],
        [
            [row["input"], row["folder"], " x ".join(map(str, row["grid"])), str(row["best_head"])]
            for row in result["images"]
        ],
    )
    return result
