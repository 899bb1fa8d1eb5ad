"""Approximate nearest neighbours for tens of millions of rows, by faiss.

Q queries, M rows of the index, D features, K neighbours.
"""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dino_cli.core.evaluation.neighbors import Rows, nearest, normalized_block

__all__ = ["ApproximateIndex"]

BLOCK = 8192
MOST_TRAINING = 256  # rows for each list that the lists are learned from
PROBES = 1 / 16  # of the lists that a query looks into, but at least
FEWEST_PROBES = 16
FEWEST_FOR_LISTS = 40 * 16  # rows; below, one list, which is exact but for half precision
SAMPLE = 200  # rows whose neighbours are also searched for exactly


class ApproximateIndex:
    """Rows in inverted lists (IVF, Jégou et al. 2011) at half precision: two bytes for each number.

    features (M, D) are read in blocks; allowed (M): rows that may be neighbours. Raises
    `ImportError` without faiss.
    """

    def __init__(self, features: Rows, *, allowed: NDArray[np.bool_] | None = None) -> None:
        import faiss

        self._features, self._allowed = features, allowed
        rows, width = features.shape
        lists = max(1, int(4 * math.sqrt(rows))) if rows >= FEWEST_FOR_LISTS else 1
        lists = min(lists, max(1, rows // 40))
        kind = faiss.ScalarQuantizer.QT_fp16
        coarse = faiss.IndexFlatIP(width)
        self._index: Any = faiss.IndexIVFScalarQuantizer(
            coarse, width, lists, kind, faiss.METRIC_INNER_PRODUCT
        )
        self._index.cp.seed = 0
        self._index.train(self._sample(min(rows, MOST_TRAINING * lists)))
        for start in range(0, rows, BLOCK):
            block = normalized_block(features, start, BLOCK, "cpu").numpy()
            numbers = np.arange(start, start + len(block), dtype=np.int64)
            if allowed is not None:
                kept = allowed[start : start + len(block)]
                block, numbers = block[kept], numbers[kept]
            if len(block):
                self._index.add_with_ids(np.ascontiguousarray(block), numbers)
        self._index.nprobe = min(lists, max(FEWEST_PROBES, int(lists * PROBES)))

    def nearest(
        self, queries: Rows, k: int, *, leave_one_out: bool = False
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """As `core.evaluation.neighbors.nearest`, but some neighbours may be missed.

        Where the lists that are looked into hold fewer than k rows, all are looked into.
        """
        for start in range(0, queries.shape[0], BLOCK // 8):
            q = normalized_block(queries, start, BLOCK // 8, "cpu").numpy()
            similarities, rows = self._search(q, k + leave_one_out)
            if leave_one_out:
                own = np.arange(start, start + len(q))[:, None]
                # The row itself goes to the end; where it was not found, the last one goes.
                order = np.argsort(rows == own, axis=1, kind="stable")[:, :k]
                similarities = np.take_along_axis(similarities, order, 1)
                rows = np.take_along_axis(rows, order, 1)
            yield torch.from_numpy(similarities), torch.from_numpy(rows)

    def recall(self, k: int) -> float:
        """Share of the k exact neighbours that are found, over a sample of its own rows.

        A row is no neighbour of itself. Raises `ValueError` when fewer than k + 1 rows are left.
        """
        spread = np.linspace(0, self._features.shape[0] - 1, SAMPLE).astype(np.int64)
        own = np.unique(spread).tolist()
        sample = np.concatenate([np.asarray(self._features[i : i + 1]) for i in own])
        exact = nearest(sample, self._features, k + 1, allowed=self._allowed)
        rows = zip(exact, self.nearest(sample, k + 1), strict=True)
        found = wanted = 0
        for (_, right), (_, ours) in rows:
            for a, b in zip(right.tolist(), ours.tolist(), strict=True):
                row = own[wanted // k]
                others = [i for i in a if i != row][:k]
                found += len(set(others) & set(b))
                wanted += k
        return found / wanted

    def _search(self, q: NDArray[np.float32], k: int) -> tuple[NDArray[Any], NDArray[Any]]:
        similarities, rows = self._index.search(np.ascontiguousarray(q), k)
        short = (rows < 0).any(axis=1)
        if short.any():
            before, self._index.nprobe = self._index.nprobe, self._index.nlist
            similarities[short], rows[short] = self._index.search(q[short], k)
            self._index.nprobe = before
        return similarities, rows

    def _sample(self, count: int) -> NDArray[np.float32]:
        """Rows evenly from all over, in runs, so that the file is read in order."""
        rows = self._features.shape[0]
        if count >= rows:
            starts, run = range(0, rows, BLOCK), BLOCK
        else:
            run = 64
            starts = range(0, rows - run + 1, max(run, rows * run // count))
        return np.concatenate([normalized_block(self._features, s, run, "cpu") for s in starts])
