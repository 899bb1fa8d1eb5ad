"""The options of `dino eval knn`."""

from dataclasses import dataclass
from pathlib import Path

from dino_cli.config.setting import setting
from dino_cli.config.shared import ImageOptions, NetworkOptions, TransformOptions

__all__ = ["EvalKnnConfig"]


@dataclass(frozen=True, kw_only=True)
class EvalKnnConfig(NetworkOptions, ImageOptions, TransformOptions):
    """`dino eval knn`: weighted nearest neighbours, over a sweep of k and temperature."""

    train: Path = setting(
        help="Training images: one folder per class, a .txt list with labels, or a file of"
        " features.",
        argument=True,
        metavar="TRAIN",
    )
    val: Path = setting(
        help="Validation images, of the same classes, in one of these forms.",
        argument=True,
        metavar="VAL",
    )
    k: tuple[int, ...] = setting((10, 20, 100, 200), "Neighbours that vote; may repeat.", flag="-k")
    temperature: tuple[float, ...] = setting(
        (0.07, 0.02, 0.04, 0.1, 0.2),
        "Votes weigh exp(cosine / temperature); may repeat. The first one is the headline's.",
    )
    output: Path | None = setting(
        None,
        "Folder for the report, and for the features, which `dino knn` can use.",
        flag="--output,-o",
    )
    overwrite: bool = setting(False, "Replace an existing report.")
