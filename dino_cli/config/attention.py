"""The options of `dino attention`."""

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

__all__ = ["AttentionConfig", "Palette"]

Palette = Literal["inferno", "magma", "plasma", "viridis", "cividis", "turbo", "grey"]


@dataclass(frozen=True, kw_only=True)
class AttentionConfig(NetworkOptions, ImageOptions, ListOptions):
    """`dino attention`: attention of a token as arrays, heat maps and masks."""

    images: tuple[str, ...] = setting(
        (),
        "Images, videos, folders (mirrored below the output), .txt lists, or - for a list on"
        " stdin.",
        argument=True,
        metavar="IMAGE...",
    )
    output: Path = setting(Path("attention"), "Folder for the results.", flag="--output,-o")
    head: str = setting("all", "all, mean, best, or head numbers such as 0,3.")
    query: str | None = setting(
        None,
        "What the patch at this point attends to, instead of the class token: pixels of the photo"
        " from its top left corner, or 50%,40%.",
        metavar="X,Y",
    )
    layer: int = setting(-1, "Which block: 0 is the first, -1 the last.")
    image_size: str | None = setting(
        None,
        "480: short side, aspect kept. 480x480: height x width, stretched, as the original."
        " Default: the short side that suits the model, 480 for DINO.",
        metavar="SIZE",
    )
    threshold: float = setting(
        0.6,
        "Masks of heads keep the fewest patches that hold this share of the attention; those of"
        " --masks seeded, tokens and cut have no threshold.",
    )
    masks: Literal["attention", "seeded", "tokens", "cut"] = setting(
        "attention",
        "attention: of each head, as the paper. Of the whole image, far better: seeded, the patches"
        " whose keys resemble the attended ones; tokens, the same of the network's output, best"
        " where measured; cut, TokenCut.",
    )
    refine: Literal["none", "guided"] = setting(
        "none", "guided: fit masks to the photo's edges, in a few milliseconds."
    )
    format: str = setting(
        "pictures",
        "pictures; coco: one coco.json with run-length masks, boxes and scores; polygons: one"
        " coco-polygons.json. Comma-separated.",
        panel=OUTPUT_PANEL,
    )
    instances: bool = setting(
        False, "Take each connected part of a mask for an object of its own.", panel=OUTPUT_PANEL
    )
    html: bool = setting(
        False, "Also one page to look at, OUT/index.html, pictures inside.", panel=OUTPUT_PANEL
    )
    palette: Palette = setting("inferno", "Colours of heat maps.", panel=OUTPUT_PANEL)
    outline: str = setting(
        "#ffc400", "Colour of the outlines of masks: #rrggbb or a name.", panel=OUTPUT_PANEL
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
    )  # large images: more at once are no faster, and wait for each other
    workers: int = setting(
        8, "Threads that read and write pictures, at most one per core.", panel=COMPUTE_PANEL
    )
