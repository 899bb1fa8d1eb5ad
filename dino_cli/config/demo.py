"""The options of `dino demo`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from dino_cli.config.setting import setting
from dino_cli.config.shared import COMPUTE_PANEL, MODEL_PANEL, NetworkOptions

__all__ = ["DemoConfig"]


@dataclass(frozen=True, kw_only=True)
class DemoConfig(NetworkOptions):
    """`dino demo`: a ViT that learned without labels finds objects, offline, in minutes."""

    output: Path = setting(Path("demo"), "Folder for the results.", flag="--output,-o")
    train: bool = setting(
        False,
        "Repeat the whole training from nothing, watching the heads; run again to resume.",
    )
    seed: int = setting(0, "Seed of the drawings.")
    overwrite: bool = setting(False, "Replace an existing output; with --train, start anew.")
    images: Path | None = setting(
        None, "Only draw: write images/<class>/*.png and masks/<class>/*.png into this new folder."
    )
    count: int = setting(200, "How many images to draw with --images.")
    size: int = setting(192, "Side of the drawn images in pixels, with --images.")
    style: Literal["final", "early", "mixed"] = setting(
        "final", "Style of the drawings, with --images; early ones are for training."
    )
    model: str = setting(
        "dino_demo",
        "Which network to show; a released one needs the network once, and more minutes.",
        panel=MODEL_PANEL,
        metavar="NAME",
    )
    workers: int = setting(8, "Processes that draw, at most one per core.", panel=COMPUTE_PANEL)
