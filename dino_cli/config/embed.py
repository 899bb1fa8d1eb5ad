"""The options of `dino embed`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from dino_cli.config.setting import setting
from dino_cli.config.shared import ComputeOptions, ImageOptions, ModelOptions, TransformOptions

__all__ = ["EmbedConfig"]


@dataclass(frozen=True, kw_only=True)
class EmbedConfig(ModelOptions, ComputeOptions, ImageOptions, TransformOptions):
    """`dino embed`: one feature vector per picture."""

    paths: tuple[str, ...] = setting(
        (),
        "Images, folders (searched recursively), .txt lists, or - for a list on stdin.",
        argument=True,
        metavar="PATH...",
    )
    output: Path = setting(
        Path("feats.npy"),
        "Where the features go: float32 (N, D), with .csv (paths, labels) and .json beside it.",
        flag="--output,-o",
    )
    features: Literal["cls", "mean", "cls+mean"] = setting(
        "cls", "cls: the class token, as the paper; mean: of the patch tokens; or both."
    )
    normalize: bool = setting(False, "Scale every vector to length 1.")
    overwrite: bool = setting(False, "Replace an existing output.")
