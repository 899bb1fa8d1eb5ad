"""The options of `dino eval segmentation`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from dino_cli.config.setting import setting
from dino_cli.config.shared import COMPUTE_PANEL, MODEL_PANEL, EvalNetworkOptions, ImageOptions

__all__ = ["EvalSegmentationConfig"]


@dataclass(frozen=True, kw_only=True)
class EvalSegmentationConfig(EvalNetworkOptions, ImageOptions):
    """`dino eval segmentation`: how well masks from attention fit the objects of label maps."""

    images: Path = setting(
        help="Photos: a folder, or a .txt list of files.", argument=True, metavar="IMAGES"
    )
    masks: Path = setting(
        help="Label maps of the same names: a number per object (0 background, 255 void, as VOC's"
        " SegmentationObject), or black and white with one object.",
        argument=True,
        metavar="MASKS",
    )
    names: Path | None = setting(
        None,
        "Only the images named in this file, one per line without suffix, as VOC's val.txt.",
        metavar="FILE",
    )
    image_size: str = setting(
        "480x480",
        "480x480: height x width, stretched, as the paper. 480: short side, aspect kept.",
        metavar="SIZE",
    )
    threshold: float = setting(
        0.6, "Masks keep the fewest patches that hold this share of the attention."
    )
    refine: Literal["none", "guided"] = setting(
        "guided", "guided: every mask also fitted to the photo's edges; none: leaves that out."
    )
    random: bool = setting(True, "Also the same network untrained; doubles the time.")
    supervised: str | None = setting(
        None,
        "Also this network, for comparison: a name or a file of weights.",
        panel=MODEL_PANEL,
        metavar="MODEL",
    )
    output: Path | None = setting(
        None, "Folder for the report, with the figures of every image.", flag="--output,-o"
    )
    overwrite: bool = setting(False, "Replace an existing report.")
    batch_size: int = setting(8, "Images of one size in one forward pass.", panel=COMPUTE_PANEL)
    workers: int = setting(
        8, "Threads that read pictures, at most one per core.", panel=COMPUTE_PANEL
    )
