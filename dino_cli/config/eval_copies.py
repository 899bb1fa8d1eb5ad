"""The options of `dino eval copies`."""

from dataclasses import dataclass
from pathlib import Path

from dino_cli.config.setting import setting
from dino_cli.config.shared import EvalNetworkOptions, ImageOptions

__all__ = ["EvalCopiesConfig"]


@dataclass(frozen=True, kw_only=True)
class EvalCopiesConfig(EvalNetworkOptions, ImageOptions):
    """`dino eval copies`: find the original of an altered copy."""

    root: Path = setting(
        help="Folder in the layout of Copydays: original/, strong/, jpegqual/15/, crops/50/ …",
        argument=True,
        metavar="ROOT",
    )
    distractors: Path | None = setting(
        None, "Folder of other images to search among (the paper: 10,000).", metavar="DIR"
    )
    whitening: Path | None = setting(
        None,
        "Folder of other images that the descriptors' whitening is learned on (the paper: 20,000).",
        metavar="DIR",
    )
    image_size: int = setting(320, "Images are stretched to a square of that side, in pixels.")
    output: Path | None = setting(
        None, "Folder for the report, with the rank of each copy's original.", flag="--output,-o"
    )
    overwrite: bool = setting(False, "Replace an existing report.")
