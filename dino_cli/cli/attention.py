"""`dino attention`."""

from typing import Any

from dino_cli.cli.app import app
from dino_cli.cli.display import Terminal
from dino_cli.cli.options import command
from dino_cli.config.attention import AttentionConfig


@command(app, "attention", AttentionConfig)
def attention(config: AttentionConfig, terminal: Terminal) -> dict[str, Any] | None:
    """Turn a ViT's attention into heat maps and masks, a folder for each image or video.

    cat.jpg gives OUT/cat/: attention.npy (heads, rows, columns), a heat map,
    a mask and an overlay for each head, and grid.png with all heads side by
    side; clip.mp4 gives OUT/clip/ with the same as videos. For the best masks:
    --masks tokens --refine guided. For other tools: --format coco --instances.
    To look at many: --html.
    """
    from dino_cli.tasks.early import check_inputs, reach_model

    check_inputs(config.images)
    reach_model(config, config.images)
    from dino_cli.tasks.attention.run import attention as task

    result = task(config, terminal)
    folders = any(row["folder"] for row in result["images"])
    scored = config.masks != "attention"
    terminal.table(
        "",
        ["image", "folder", "patches, h x w", "best head", *(["score"] if scored else [])],
        [
            [
                row["input"],
                row["folder"] or "",
                " x ".join(map(str, row["grid"])),
                str(row["best_head"]),
                *([_score(row)] if scored else []),
            ]
            for row in result["images"]
        ],
        rest=(f"all are in {result['output']}, and " if folders else "") + "--json prints them",
    )
    for path, what in result["shared"].items():
        terminal.line(f"{path}: {what}")
    return result


def _score(row: dict[str, Any]) -> str:
    return f"{row['score']:.2f}" + (", a guess" if row["guess"] else "")
