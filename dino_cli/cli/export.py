"""`dino export`."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from dino_cli.cli.app import app
from dino_cli.cli.display import Terminal
from dino_cli.cli.options import command
from dino_cli.config.export import ExportConfig
from dino_cli.errors import UsageError

FOR = {
    "reference": "for the original's code",
    "timm": "for timm",
    "huggingface": "for transformers",
    "onnx": "for ONNX runtimes",
}


@command(app, "export", ExportConfig)
def export(config: ExportConfig, terminal: Terminal) -> dict[str, Any] | None:
    """Write weights as another program opens them: the original's code, timm, Hugging Face, ONNX.

    The suffix of -o chooses. A model card is written beside the file, with the lines of Python
    that open it.

    Example: dino export runs/first -o vit.onnx --attention
    """
    from dino_cli.tasks.early import reach_model

    if config.source is None and config.weights is None and "model" not in terminal.given:
        raise UsageError("nothing named to export", "as in: dino export runs/first -o vit.onnx")
    if config.source is None:
        reach_model(config)
    elif not Path(config.source).expanduser().exists():
        reach_model(replace(config, model=config.source))
    from dino_cli.tasks.export import export as run

    result = run(config, terminal)
    terminal.line(
        f"{result['output']}: {FOR[result['layout']]}, {result['bytes'] / 1e6:.1f} MB;"
        f" how to open it: {result['card']}"
    )
    if result["options"]:  # this layout has no place for what they say
        terminal.line(f"for dino: --weights {result['output']} {' '.join(result['options'])}")
    return result
