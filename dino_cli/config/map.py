"""The options of `dino map`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from dino_cli.config.setting import setting
from dino_cli.config.shared import PixelOptions

__all__ = ["MapConfig"]


@dataclass(frozen=True, kw_only=True)
class MapConfig(PixelOptions):
    """`dino map`: embedded pictures as a map, like beside like."""

    features: Path = setting(
        help="A file of `dino embed`: .npy, .npz, .safetensors, .parquet or .csv.",
        argument=True,
        metavar="FEATS",
    )
    output: Path = setting(
        Path("map.png"),
        "A .png is a still picture; a folder (map/) an interactive site by Embedding Atlas:"
        " pip install 'dino-cli[atlas]'.",
        flag="--output,-o",
    )
    project: Literal["auto", "pca", "umap"] = setting(
        "auto",
        "How features become places. auto: the file's own places (`dino embed --project`), else"
        " UMAP where installed, else PCA.",
    )
    thumbnails: bool = setting(True, "Show pictures, in a .png as many as fit without overlap.")
    width: int = setting(2400, "Pixels across, of a .png.", metavar="PIXELS")
    overwrite: bool = setting(False, "Replace an existing map.")
