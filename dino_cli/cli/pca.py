"""`dino pca`."""

from typing import Any

from dino_cli.cli.app import app
from dino_cli.cli.display import Terminal
from dino_cli.cli.options import command
from dino_cli.config.pca import PcaConfig


@command(app, "pca", PcaConfig)
def pca(config: PcaConfig, terminal: Terminal) -> dict[str, Any] | None:
    """Show patch features as colours: the same colour, the same kind of thing.

    The first three principal components become red, green and blue, fitted to
    all images together, so that a colour means the same in each; objects are
    told from their surroundings first. cat.jpg gives OUT/cat/: pca.png,
    beside.png and pca.npy (rows, columns, 3); a video gives videos; a folder
    also sheet.png.
    """
    from dino_cli.tasks.early import check_inputs, reach_model

    check_inputs(config.images)
    reach_model(config, config.images)
    from dino_cli.tasks.pca.run import pca as task

    result = task(config, terminal)
    terminal.table(
        "",
        ["image", "folder", "patches, h x w", "foreground"],
        [
            [
                row["input"],
                row["folder"],
                " x ".join(map(str, row["grid"])),
                f"{100 * row['foreground']:.0f} %",
            ]
            for row in result["images"]
        ],
        rest=f"all are in {result['output']}, and --json prints them",
    )
    for path, what in result["shared"].items():
        terminal.line(f"{path}: {what}")
    return result
