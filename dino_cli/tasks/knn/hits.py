"""Search by picture: a page of the queries and what lies nearest to them."""

from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import dino_cli
from dino_cli.data.decoding.thumbnails import small_picture
from dino_cli.store.embeddings.reading import Embeddings
from dino_cli.store.pages import Picture, picture, write_page
from dino_cli.store.writing.targets import explain_errors
from dino_cli.tasks.knn.search import NeighborBlock, rounded

__all__ = ["HitsPage"]

MOST_QUERIES = 200  # on a page; with 8 neighbours each it has some 10 MB then
SIDE = 200  # pixels


class HitsPage:
    """The queries of a page so far: add, then write."""

    def __init__(self, index: Embeddings, named: int, exif: bool) -> None:
        self.index, self.named, self.exif = index, named, exif
        self.queries: list[dict[str, Any]] = []
        self.total = 0

    def add(self, found: NeighborBlock, predictions: Iterator[list[object]] | None) -> None:
        """A block of queries; predictions: their rows, where the index has labels."""
        for i, path in enumerate(found.paths):
            self.total += 1
            row = next(predictions) if predictions is not None else None
            if len(self.queries) >= MOST_QUERIES:
                continue
            neighbors = [
                {
                    "picture": _picture(self.index.paths[j], self.exif),
                    "path": self.index.paths[j],
                    "label": self.index.labels[j],
                    "similarity": rounded(found.similarities[i, n]),
                }
                for n, j in enumerate(found.rows[i, : self.named].tolist())
            ]
            self.queries.append(
                {
                    "picture": _picture(path, self.exif),
                    "path": path,
                    "label": found.labels[i],
                    "predicted": row[1] if row else "",
                    "probability": row[2] if row else "",
                    "rejected": row is not None and row[1] == "",
                    "neighbors": neighbors,
                }
            )

    def write(self, output: Path) -> None:
        """Raises `TaskError` when the page cannot be written."""
        values: Mapping[str, Any] = {
            "title": "dino knn: nearest pictures",
            "queries": self.queries,
            "total": self.total,
            "index": str(self.index.path),
            "size": len(self.index.paths),
            "facts": self.index.metadata,
            "version": dino_cli.__version__,
        }
        with explain_errors(output):
            write_page(output, "hits", values)


@lru_cache(maxsize=2048)
def _picture(path: str, exif: bool) -> Picture | None:
    """None for a file that is not there any more, or gives no picture."""
    try:
        small = small_picture(Path(path), exif=exif, side=SIDE)
    except (ValueError, OSError):
        return None
    return picture(small, Path(path).name)
