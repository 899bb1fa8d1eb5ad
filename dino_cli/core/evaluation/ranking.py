"""Average precision of ranked lists, as the retrieval and copy-detection benchmarks measure it.

N ranked images. Radenović et al., Revisiting Oxford and Paris, 2018; Philbin et al., 2007.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

__all__ = ["average_precision", "positive_ranks", "precision_at"]

Numbers = NDArray[np.int64]


def average_precision(ranks: Sequence[int] | Numbers, positives: int) -> float:
    """Area under the precision-recall curve, by trapezoids.

    ranks: rising, from 0, of the positives that were found; positives: how many there are. Raises
    `ValueError` when there are none.
    """
    if positives < 1:
        raise ValueError("a query without positives has no average precision")
    rank = np.asarray(ranks, dtype=np.float64)
    found = np.arange(len(rank), dtype=np.float64)
    before = np.divide(found, rank, out=np.ones_like(rank), where=rank > 0)
    return float(((before + (found + 1) / (rank + 1)) / 2).sum() / positives)


def positive_ranks(
    order: Numbers, positives: Sequence[int] | Numbers, ignored: Sequence[int] | Numbers = ()
) -> Numbers:
    """Ranks, from 0, of the positives in `order` (N,) once the ignored ones have left it."""
    ranks = np.flatnonzero(np.isin(order, positives))
    left = np.flatnonzero(np.isin(order, ignored))
    return ranks - np.searchsorted(left, ranks)


def precision_at(k: int, ranks: Numbers) -> float:
    """Share of positives among the first k, or down to the last positive if that comes earlier.

    ranks: as `positive_ranks` gives them, not empty.
    """
    first = min(int(ranks.max()) + 1, k)
    return int((ranks < first).sum()) / first
