"""The options of `dino eval retrieval`."""

from dataclasses import dataclass
from pathlib import Path

from dino_cli.config.setting import setting
from dino_cli.config.shared import EvalNetworkOptions, ImageOptions

__all__ = ["EvalRetrievalConfig"]


@dataclass(frozen=True, kw_only=True)
class EvalRetrievalConfig(EvalNetworkOptions, ImageOptions):
    """`dino eval retrieval`: mean average precision of landmarks, or of a folder with classes."""

    root: Path = setting(
        help="Revisited Oxford or Paris (jpg/ and gnd_*.json or .pkl), or a folder with classes.",
        argument=True,
        metavar="ROOT",
    )
    image_size: int = setting(
        224, "Long side in pixels; smaller images stay as they are. The paper: Paris 512."
    )
    multi_scale: bool = setting(
        False, "Mean of the features at 1, 0.7 and 0.5 times that size; the paper: for Paris."
    )
    output: Path | None = setting(
        None, "Folder for the report, with the precision of each query.", flag="--output,-o"
    )
    overwrite: bool = setting(False, "Replace an existing report.")
