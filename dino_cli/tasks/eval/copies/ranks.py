"""Where the originals of copies stand in the ranking, counted while the images come.

Q queries, D features; a pair is a query and one of its originals.
"""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from dino_cli.core.evaluation.ranking import average_precision
from dino_cli.core.pca.whitening import Whitening

__all__ = ["CopyRanks"]


class CopyRanks:
    """Ranks of originals by cosine. Distractors are only counted, so none is kept.

    descriptors: (Q, D) of all queries, of which the first `count` are the originals, the database;
    pairs: (query, original). whitening: applied to all, if given.
    """

    def __init__(
        self,
        descriptors: Tensor,
        count: int,
        pairs: Sequence[tuple[int, int]],
        whitening: Whitening | None,
    ) -> None:
        self._whitening = whitening
        self._queries = self._unit(descriptors)
        queries, originals = torch.tensor(pairs).T
        self._of = queries
        similarity = self._queries @ self._queries[:count].T
        self._similarity = similarity[queries, originals][:, None]
        self._ranks = (similarity[queries] > self._similarity).sum(dim=1)

    def _unit(self, descriptors: Tensor) -> Tensor:
        whitened = self._whitening.apply(descriptors) if self._whitening else descriptors.double()
        return F.normalize(whitened, dim=1)

    def add(self, distractors: Tensor) -> None:
        """(B, D) more images of the database."""
        if len(distractors):
            similarity = self._queries @ self._unit(distractors).T
            self._ranks += (similarity[self._of] > self._similarity).sum(dim=1)

    @property
    def ranks(self) -> NDArray[np.int64]:
        """Of each pair's original, from 0."""
        return self._ranks.numpy()

    def precisions(self, limit: int) -> list[float]:
        """Average precision of each query, of originals among the first `limit` images."""
        found: list[list[int]] = [[] for _ in range(len(self._queries))]
        count = [0] * len(self._queries)
        for query, rank in zip(self._of.tolist(), self.ranks.tolist(), strict=True):
            count[query] += 1
            if rank < limit:
                found[query].append(rank)
        return [average_precision(sorted(r), n) for r, n in zip(found, count, strict=True)]
