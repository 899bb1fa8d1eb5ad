"""The options of `dino export`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from dino_cli.config.setting import setting
from dino_cli.config.shared import ModelOptions

__all__ = ["ExportConfig"]


@dataclass(frozen=True, kw_only=True)
class ExportConfig(ModelOptions):
    """`dino export`: weights in the file that another program opens."""

    source: str | None = setting(
        None,
        "A run folder, a file of weights, or the name of a model; else --weights or --model.",
        argument=True,
        metavar="SOURCE",
    )
    output: Path = setting(
        help="What to write: .pth for the original's code, .safetensors for timm, .onnx, or a"
        " folder (no suffix) for Hugging Face transformers.",
        flag="--output,-o",
    )
    half: bool = setting(False, "Store the weights in half precision: half the size.")
    features: Literal["cls", "cls+mean", "patch"] = setting(
        "cls",
        "Of an .onnx: the class token, or with the mean of the patch tokens behind it; or the grid"
        " of patch tokens (B, rows, columns, D).",
    )
    attention: bool = setting(
        False,
        "Of an .onnx: a second output, the class token's attention (B, heads, rows, columns).",
    )
    overwrite: bool = setting(False, "Replace an existing output.")
