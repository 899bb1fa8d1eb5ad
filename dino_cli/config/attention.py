"""The options of `dino attention`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from dino_cli.config.setting import setting
from dino_cli.config.shared import COMPUTE_PANEL, ComputeOptions, ImageOptions, ModelOptions

__all__ = ["AttentionConfig"]


@dataclass(frozen=True, kw_only=True)
class AttentionConfig(ModelOptions, ComputeOptions, ImageOptions):
    """`dino attention`: last-block CLS attention as arrays, heat maps and masks."""

    images: tuple[str, ...] = setting(
        (),
        "Images, folders (mirrored below the output), .txt lists, or - for a list on stdin.",
        argument=True,
        metavar="IMAGE...",
    )
    output: Path = setting(Path("attention"), "Folder for the results.", flag="--output,-o")
    head: str = setting("all", "all, mean, best, or head numbers such as 0,3.")
    image_size: str | None = setting(
        None,
        "480: short side, aspect kept. 480x480: height x width, stretched, as the original."
        " Default: the short side that suits the model, 480 for DINO.",
        metavar="SIZE",
    )
    threshold: float = setting(
        0.6, "Masks keep the fewest patches that hold this share of the attention."
    )
    masks: Literal["attention", "seeded", "cut"] = setting(
        "attention",
        "attention: of each head, as the paper. seeded: one per image, of the patches whose keys"
        " resemble the attended ones; far better. cut: one per image, by TokenCut.",
    )
    refine: Literal["none", "guided"] = setting(
        "none", "guided: fit masks to the photo's edges, in a few milliseconds."
    )
    batch_size: int = setting(
        8, "Images of one size in one forward pass.", panel=COMPUTE_PANEL
    )  # large images: more at once are no faster, and wait for each other
    workers: int = setting(
        8, "Threads that read and write pictures, at most one per core.", panel=COMPUTE_PANEL
    )
    overwrite: bool = setting(False, "Replace existing results.")
