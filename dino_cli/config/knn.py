"""The options of `dino knn`."""

from dataclasses import dataclass
from pathlib import Path

from dino_cli.config.setting import setting
from dino_cli.config.shared import ComputeOptions, ImageOptions, ModelOptions

__all__ = ["KnnConfig"]


@dataclass(frozen=True, kw_only=True)
class KnnConfig(ModelOptions, ComputeOptions, ImageOptions):
    """`dino knn`: weighted nearest neighbours over exported features."""

    queries: tuple[str, ...] = setting(
        (),
        "Images, folders, lists, or one feats.npy. None: leave-one-out over the index.",
        argument=True,
        metavar="QUERY...",
    )
    index: Path = setting(Path("train_feats.npy"), "Features made by `dino embed`, with labels.")
    k: tuple[int, ...] = setting(
        (10, 20, 100, 200), "Neighbours that vote; may repeat. 20 usually works best.", flag="-k"
    )
    temperature: float = setting(0.07, "Votes weigh exp(cosine / temperature).")
    output: Path | None = setting(
        None,
        "Predictions as .csv: path, predicted, probability, label, neighbours.",
        flag="--output,-o",
    )
    neighbors: int = setting(5, "How many nearest neighbours the predictions file names.")
    overwrite: bool = setting(False, "Replace an existing output.")
