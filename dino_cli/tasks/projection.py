"""Features on a plane: a place for every picture, and its nearest neighbours."""

import warnings
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from dino_cli.core.evaluation.neighbors import Rows, nearest
from dino_cli.core.pca.plane import principal_plane
from dino_cli.errors import TaskError
from dino_cli.progress import Reporter
from dino_cli.store.embeddings.parquet import Projection

__all__ = ["Method", "has_umap", "neighbors_of", "project"]

Method = Literal["pca", "umap"]

NEIGHBORS = 15  # UMAP's own default
FEW = 30  # pictures, below which UMAP has nothing to say
BLOCK = 8192


def project(
    features: Rows,
    reporter: Reporter,
    *,
    method: Literal["auto", "pca", "umap"] = "auto",
    neighbors: bool = True,
) -> tuple[Projection, Method]:
    """Places of all rows (N, D), their neighbours, and how the places came about.

    auto: UMAP where umap-learn is installed and there are enough pictures, else PCA. neighbors:
    False leaves them out, (N, 0), when the method does not need them. UMAP has all features in
    memory, PCA a block of them. Raises `TaskError` when UMAP is asked for and not installed,
    and for features that are not finite.
    """
    count = features.shape[0]
    used: Method = "umap" if method == "umap" or (method == "auto" and count >= FEW) else "pca"
    if used == "umap" and not has_umap():
        if method == "umap":
            raise TaskError("UMAP is not installed", "pip install 'dino-cli[umap]', or take PCA")
        reporter.remark(
            "places are by PCA; those by UMAP look better: pip install 'dino-cli[umap]'"
        )
        used = "pca"
    if used == "umap" and count < 4:
        used = "pca"
    if not all(np.isfinite(features[i : i + BLOCK]).all() for i in range(0, count, BLOCK)):
        raise TaskError("some features are not finite", "embed the pictures again")
    reporter.stage("projecting", count)
    whole = features
    if used == "umap":
        blocks = [np.asarray(features[i : i + BLOCK]) for i in range(0, count, BLOCK)]
        whole = np.concatenate(blocks)
    rows, distances = np.zeros((count, 0), np.int64), np.zeros((count, 0), np.float32)
    if neighbors or used == "umap":
        rows, distances = neighbors_of(whole)
    places = principal_plane(whole) if used == "pca" else _umap(whole, rows, distances)
    reporter.advance(count)
    reporter.finish()
    return Projection(places, rows, distances), used


def neighbors_of(features: Rows) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Rows of the nearest others by cosine (N, K), nearest first, and their distances."""
    count = features.shape[0]
    k = min(NEIGHBORS, count - 1)
    rows, distances = np.zeros((count, k), np.int64), np.zeros((count, k), np.float32)
    if not k:
        return rows, distances
    at = 0
    for similarities, found in nearest(features, features, k, leave_one_out=True):
        rows[at : at + len(found)] = found.numpy()
        distances[at : at + len(found)] = (1 - similarities).clamp(min=0).numpy()
        at += len(found)
    return rows, distances


def has_umap() -> bool:
    """Whether umap-learn can be imported; that takes seconds the first time."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import umap  # noqa: F401
    except ImportError:
        return False
    return True


def _umap(
    features: Rows, rows: NDArray[np.int64], distances: NDArray[np.float32]
) -> NDArray[np.float32]:
    from umap import UMAP

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
