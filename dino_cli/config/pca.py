"""The options of `dino pca`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from dino_cli.config.setting import setting
from dino_cli.config.shared import (
    COMPUTE_PANEL,
    OUTPUT_PANEL,
    VIDEO_PANEL,
    ImageOptions,
    ListOptions,
    NetworkOptions,
)

__all__ = ["PcaConfig"]


@dataclass(frozen=True, kw_only=True)
class PcaConfig(NetworkOptions, ImageOptions, ListOptions):
    """`dino pca`: patch features as colours, the same meaning in all pictures."""

    images: tuple[str, ...] = setting(
        (),
        "Images, videos, folders (mirrored below the output), .txt lists, or - for a list on"
        " stdin.",
        argument=True,
        metavar="IMAGE...",
    )
    output: Path = setting(Path("pca"), "Folder for the results.", flag="--output,-o")
    features: Literal["tokens", "keys"] = setting(
        "tokens", "tokens: the patches' output of the block; keys: of its attention."
    )
    layer: int = setting(
        -1,
        "Which block's features: 0 is the first, -1 the last. They go through the final norm, the"
        " foreground is told from them, and the blocks after it are not computed.",
    )
    foreground: bool = setting(
        True,
        "Tell the objects from their surroundings first: colours are spent on them alone, the rest"
        " is dark.",
    )
    each: bool = setting(
        False, "Fit every image for itself: more contrast, but colours mean something else in each."
    )
    fit: int = setting(
        100, "Images, or frames, evenly among all, that the joint components are fitted to."
    )
    image_size: str | None = setting(
        None,
        "480: short side, aspect kept. 480x480: height x width. Default: the short side that suits"
        " the model.",
        metavar="SIZE",
    )
    html: bool = setting(
        False, "Also one page to look at, OUT/index.html, pictures inside.", panel=OUTPUT_PANEL
    )
    overwrite: bool = setting(False, "Replace existing results.", panel=OUTPUT_PANEL)
    fps: float | None = setting(
        None,
        "Frames of a second that are looked at (default: all); pictures in a folder become the"
        " frames of one video.",
        panel=VIDEO_PANEL,
    )
    batch_size: int = setting(
        8, "Images of one size in one forward pass.", panel=COMPUTE_PANEL
    )  # as attention's
    workers: int = setting(
        8, "Threads that read pictures, at most one per core.", panel=COMPUTE_PANEL
    )
