"""The options of `dino embed`."""

from dataclasses import dataclass
from pathlib import Path

from dino_cli.config.setting import setting
from dino_cli.config.shared import (
    IMAGE_PANEL,
    VIDEO_PANEL,
    ImageOptions,
    ListOptions,
    NetworkOptions,
    TransformOptions,
)

__all__ = ["EmbedConfig"]


@dataclass(frozen=True, kw_only=True)
class EmbedConfig(NetworkOptions, ImageOptions, TransformOptions, ListOptions):
    """`dino embed`: one feature vector per picture."""

    paths: tuple[str, ...] = setting(
        (),
        "Images, videos, folders (searched recursively), .txt lists, or - for a list on stdin.",
        argument=True,
        metavar="PATH...",
    )
    output: Path = setting(
        Path("feats.npy"),
        "Where the features go: .npy or .safetensors (with .csv and .json beside it), .csv (with"
        " .json), .npz or .parquet.",
        flag="--output,-o",
    )
    features: str = setting(
        "cls",
        "cls: the class token, as the paper; mean: of the patch tokens; cls+mean: both; last4:"
        " class tokens of the last four blocks; patch, keys: a grid for each picture, in half"
        " precision. Comma-separated, all from one pass.",
        metavar="KIND[,KIND...]",
    )
    layer: int = setting(
        -1,
        "Which block's features: 0 is the first, -1 the last. They go through the final norm; the"
        " blocks after it are not computed.",
    )
    normalize: bool = setting(False, "Scale every vector to length 1.")
    multi_scale: bool = setting(
        False, "Mean over the scales 1, 0.71 and 0.5, scaled to length 1, as for retrieval."
    )
    image_size: str | None = setting(
        None,
        "480: short side, aspect kept, no crop. 480x640: height x width, stretched. Trimmed to"
        " whole patches.",
        panel=IMAGE_PANEL,
        metavar="SIZE",
    )
    thumbnails: bool = setting(
        False, "Put a small JPEG of each picture into the .parquet, as the column `image`."
    )
    project: bool = setting(
        False,
        "Put a place on a plane (UMAP where installed, else PCA) and nearest neighbours into the"
        " .parquet.",
    )
    fps: float | None = setting(
        None,
        "Frames of each second of a video that get a row (default: all).",
        panel=VIDEO_PANEL,
    )
    resume: bool = setting(False, "Go on where an interrupted run stopped.")
    append: bool = setting(
        False, "Embed only what the output does not hold yet, by path and content."
    )
    overwrite: bool = setting(False, "Replace an existing output.")
