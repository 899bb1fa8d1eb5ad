"""What `--project` adds: a place on a plane for every picture, and its nearest neighbours."""

import warnings
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from dino_cli.config.embed import EmbedConfig
from dino_cli.core.neighbors import nearest
from dino_cli.core.projection import principal_plane
from dino_cli.progress import Reporter
from dino_cli.store.embeddings_parquet import Projected
from dino_cli.tasks.embed.merge import Merged

__all__ = ["project"]

NEIGHBORS = 15  # UMAP's own default
FEW = 30  # pictures, below which UMAP has nothing to say


def project(
    merged: Merged, kind: str, config: EmbedConfig, reporter: Reporter
) -> tuple[Projected, str]:
    """Places and neighbours of all rows, and the method's name: `umap`, or `pca` without umap-learn
    and for few pictures. Features are in memory, four bytes for each number."""
    features = np.concatenate(list(merged.arrays(kind)))
    count = len(features)
    k = min(NEIGHBORS, count - 1)
    reporter.stage("projecting", count)
    rows = np.zeros((count, k), np.int64)
    distances = np.zeros((count, k), np.float32)
    if k:
        at = 0
        for similarities, found in nearest(features, features, k, leave_one_out=True):
            rows[at : at + len(found)] = found.numpy()
            distances[at : at + len(found)] = (1 - similarities).clamp(min=0).numpy()
            at += len(found)
    places = _umap(features, rows, distances) if count >= FEW else None
    method = "pca" if places is None else "umap"
    if places is None:
        if count >= FEW:
            reporter.remark(
                "places are by PCA; those by UMAP look better: pip install 'dino-cli[umap]'"
            )
        places = principal_plane(features)
    reporter.advance(count)
    reporter.finish()
    return Projected(places, rows, distances), method


def _umap(
    features: NDArray[np.float32], rows: NDArray[np.int64], distances: NDArray[np.float32]
) -> NDArray[np.float32] | None:
    """None without umap-learn."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from umap import UMAP
    except ImportError:
        return None
    own = np.arange(len(rows))[:, None]
    # UMAP counts a point as its own first neighbour.
    known: Any = (
        np.concatenate([own, rows], axis=1),
        np.concatenate([np.zeros((len(rows), 1), np.float32), distances], axis=1),
    )
    threads = torch.get_num_threads()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = UMAP(
            n_neighbors=known[0].shape[1],
            metric="cosine",
            precomputed_knn=known,
            random_state=0,
            n_jobs=1,
        )
        places = model.fit_transform(features)
    torch.set_num_threads(threads)
    return np.ascontiguousarray(places, np.float32)
