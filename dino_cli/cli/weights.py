"""`dino weights list|path|download`."""

from typing import Any

import typer

from dino_cli.cli.app import app
from dino_cli.cli.display import Terminal
from dino_cli.cli.options import command
from dino_cli.config.weights import WeightsDownloadConfig, WeightsListConfig, WeightsPathConfig

weights = typer.Typer(no_args_is_help=True, help="Released models: list, find and fetch them.")
app.add_typer(weights, name="weights")

COLUMNS = ["name", "architecture", "M params", "k-NN", "linear", "licence", "on disk"]


@command(weights, "list", WeightsListConfig)
def list_(config: WeightsListConfig, terminal: Terminal) -> list[dict[str, Any]]:
    """List the models known by name.

    k-NN and linear are the top-1 that their authors published for ImageNet, in percent. Any
    Hugging Face or timm name works with --model too.
    """
    from dino_cli.tasks.weights import list_weights

    records = list_weights()
    rows = []
    for record in records:
        patch = f", patch {record['patch_size']}" if record["patch_size"] else ""
        architecture = f"{record['architecture'] or 'vit'}{patch}"
        figures = [_figure(record[key]) for key in ("parameters", "knn", "linear")]
        here = "yes" if record["path"] else "not here"
        rows.append([record["name"], architecture, *figures, record["licence"], here])
    terminal.table("", COLUMNS, rows)
    return records


@command(weights, "path", WeightsPathConfig)
def path(config: WeightsPathConfig, terminal: Terminal) -> dict[str, str]:
    """Print where a model's weights lie on this disk; never asks the network."""
    from dino_cli.tasks.weights import weights_path

    found = str(weights_path(config.name))
    terminal.line(found)
    return {"name": config.name, "path": found}


@command(weights, "download", WeightsDownloadConfig)
def download(config: WeightsDownloadConfig, terminal: Terminal) -> dict[str, str]:
    """Fetch weights ahead of time, and print where they lie.

    Example: dino weights download dino_vits16 dino_vitb8 --to weights/
    """
    from dino_cli.tasks.weights import download_weights

    found = download_weights(config, terminal)
    for name, where in found.items():
        terminal.line(f"{name}\t{where}")
    return found


def _figure(value: float | None) -> str:
    return "" if value is None else f"{value:.1f}"
