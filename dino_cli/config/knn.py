"""The options of `dino knn`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from dino_cli.config.setting import setting
from dino_cli.config.shared import ImageOptions, ListOptions, NetworkOptions

__all__ = ["KnnConfig"]

REPORT_PANEL = "Reports"


@dataclass(frozen=True, kw_only=True)
class KnnConfig(NetworkOptions, ImageOptions, ListOptions):
    """`dino knn`: weighted nearest neighbours over exported features."""

    queries: tuple[str, ...] = setting(
        (),
        "Images, videos, folders, lists, or one file of features. None: leave-one-out over the "
        "index.",
        argument=True,
        metavar="QUERY...",
    )
    index: tuple[Path, ...] = setting(
        (Path("train_feats.npy"),),
        "Features made by `dino embed`, with labels; may repeat, several make one index.",
    )
    k: tuple[int, ...] = setting(
        (10, 20, 100, 200), "Neighbours that vote; may repeat. 20 usually works best.", flag="-k"
    )
    temperature: float = setting(0.07, "Votes weigh exp(cosine / temperature).")
    min_similarity: float | None = setting(
        None,
        "A query whose nearest neighbour has a lower cosine is of no known class: no prediction.",
    )
    search: Literal["exact", "faiss"] = setting(
        "exact", "faiss: approximate, for ten million rows and more; tells its recall."
    )
    output: Path | None = setting(
        None,
        "Predictions as .csv: path, predicted, probability, label, neighbours; or .html: pictures"
        " of the queries and their neighbours. They are by the first -k, 20 without one.",
        flag="--output,-o",
    )
    neighbors: int = setting(5, "How many nearest neighbours the output names.")
    per_class: bool = setting(
        False, "A table of the classes: accuracy, most frequent mistake.", panel=REPORT_PANEL
    )
    confusion: Path | None = setting(
        None, "Draw the confusion matrix into this .png.", panel=REPORT_PANEL
    )
    duplicates: float | None = setting(
        None,
        "Instead of classifying, list pictures of the index whose cosine is at least this.",
        panel=REPORT_PANEL,
    )
    fps: float | None = setting(
        None, "Frames of each second of a video that are classified (default: all)."
    )
    overwrite: bool = setting(False, "Replace an existing output.")

    @property
    def page(self) -> bool:
        """Whether the output is a page of pictures, not a table."""
        return self.output is not None and self.output.suffix == ".html"
