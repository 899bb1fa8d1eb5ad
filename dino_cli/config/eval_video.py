"""The options of `dino eval video`."""

from dataclasses import dataclass
from pathlib import Path

from dino_cli.config.setting import setting
from dino_cli.config.shared import COMPUTE_PANEL, EvalNetworkOptions, PixelOptions

__all__ = ["EvalVideoConfig"]


@dataclass(frozen=True, kw_only=True)
class EvalVideoConfig(EvalNetworkOptions, PixelOptions):
    """`dino eval video`: DAVIS label propagation, with region and contour accuracy."""

    root: Path = setting(
        help="Folder in the layout of DAVIS-2017: JPEGImages/480p/VIDEO, Annotations/480p/VIDEO.",
        argument=True,
        metavar="ROOT",
    )
    split: str | None = setting(
        None,
        "Which list of ROOT/ImageSets names the videos. Default: val; without lists all videos.",
        metavar="NAME",
    )
    resolution: str = setting("480p", "Which folder of JPEGImages and Annotations.", metavar="DIR")
    output: Path | None = setting(
        None,
        "Folder for the report and, as VIDEO/FRAME.png, for the masks in the palette of DAVIS.",
        flag="--output,-o",
    )
    image_size: int = setting(
        480, "Short side in pixels; the long one is cut to a multiple of 64, as the original."
    )
    n_last_frames: int = setting(7, "Frames before this one that are context beside the first.")
    size_mask_neighborhood: int = setting(
        12, "Patches look for context at most so many rows and columns away; 0: anywhere."
    )
    topk: int = setting(5, "Context patches that a patch takes its label from.")
    batch_size: int = setting(4, "Frames in one forward pass.", panel=COMPUTE_PANEL)
    workers: int = setting(
        8, "Threads that read frames and measure masks, at most one per core.", panel=COMPUTE_PANEL
    )
    resume: bool = setting(False, "Go on in a folder whose videos are done in part.")
    overwrite: bool = setting(False, "Replace existing results.")
