"""Weighted nearest neighbours over features of any number (paper, section 4.1 and appendix F.1).

Shapes: Q queries, M rows of the index, D features, K neighbours, C classes.
"""

from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

__all__ = [
    "INDEX_BLOCK",
    "PAIR_BLOCK",
    "QUERY_BLOCK",
    "Rows",
    "nearest",
    "normalized_block",
    "similar_pairs",
    "votes",
]

QUERY_BLOCK = 4096
INDEX_BLOCK = 2048  # with QUERY_BLOCK: similarities of 32 MB, keys of 64 MB
PAIR_BLOCK = 8192  # rows that are compared with each other: similarities of 256 MB
ROUNDING = 1e-6  # of a cosine in float32, which of equal rows is often a little less than 1
GROUP = 32  # columns that are looked at together
ROW_BITS = 32
ROW_MASK = 2**ROW_BITS - 1


class Rows(Protocol):
    """Features (N, D), or (N, h, w, D), read in slices of rows: an array, a memory map, a file."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    def __getitem__(self, rows: slice, /) -> NDArray[Any]: ...


def nearest(
    queries: Rows,
    index: Rows,
    k: int,
    *,
    leave_one_out: bool = False,
    allowed: NDArray[np.bool_] | None = None,
    device: torch.device | str = "cpu",
    query_block: int = QUERY_BLOCK,
    index_block: int = INDEX_BLOCK,
) -> Iterator[tuple[Tensor, Tensor]]:
    """The k nearest rows of the index by cosine similarity, for one block of queries after another.

    queries (Q, D) and index (M, D) are read in blocks, the index once per block of queries, so
    memory does not grow with Q or M. Yields similarities, float32 (q, k) in
    falling order, and rows, int64 (q, k); equal similarities come in the order of the rows.
    leave_one_out: query i is row i of the index and is no neighbour of itself. allowed (M): rows
    that may be neighbours. Raises `ValueError` when fewer than k rows are left, or the widths
    differ.
    """
    (q_rows, width), (m_rows, index_width) = queries.shape, index.shape
    rows = m_rows if allowed is None else int(np.count_nonzero(allowed))
    # A query that is itself not allowed has all others; one fewer is right for the rest.
    if not 0 < k <= rows - leave_one_out:
        raise ValueError(f"k={k} neighbours of {rows} rows")
    if width != index_width:
        raise ValueError(f"queries have {width} features, the index {index_width}")
    scratch = _Scratch(min(query_block, q_rows) * min(index_block, m_rows), device)
    for first in range(0, q_rows, query_block):
        q = normalized_block(queries, first, query_block, device)
        best = torch.empty((len(q), 0), dtype=torch.int64, device=device)
        for start in range(0, m_rows, index_block):
            similarities = scratch.product(q, normalized_block(index, start, index_block, device))
            if leave_one_out:
                own = torch.arange(first, first + len(q), device=device) - start
                inside = (own >= 0) & (own < similarities.shape[1])
                similarities[inside.nonzero()[:, 0], own[inside]] = -torch.inf
            if allowed is not None:
                barred = torch.from_numpy(~allowed[start : start + similarities.shape[1]])
                similarities[:, barred.to(device)] = -torch.inf
            best = scratch.merged(best, similarities, start, k)
        similarities, neighbours = _from_keys(best)
        yield similarities.cpu(), neighbours.cpu()


def similar_pairs(
    features: Rows,
    threshold: float,
    *,
    most: int,
    device: torch.device | str = "cpu",
    block: int = PAIR_BLOCK,
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """All pairs of rows whose cosine similarity is at least the threshold, but for rounding.

    Yields, for one block of rows after another, the pairs' first rows and second rows, int64 (P,)
    each, first < second, and their similarities, float32 (P,), in the order of the rows. Two blocks
    are in memory at a time. Raises `OverflowError` for more than `most` pairs, before these fill
    the memory.
    """
    rows, count = features.shape[0], 0
    for first in range(0, rows, block):
        ours = normalized_block(features, first, block, device)
        found = []
        for second in range(first, rows, block):
            theirs = ours if second == first else normalized_block(features, second, block, device)
            similarities = ours @ theirs.T
            near = similarities >= threshold - ROUNDING
            if second == first:
                near = near.triu(diagonal=1)
            count += int(near.sum())
            if count > most:
                raise OverflowError(f"more than {most} pairs")
            a, b = near.nonzero(as_tuple=True)
            found.append((a + first, b + second, similarities[a, b]))
        a, b, values = (torch.cat(parts).cpu() for parts in zip(*found, strict=True))
        order = a.argsort(stable=True)
        yield a[order], b[order], values[order]


def votes(
    similarities: Tensor, labels: Tensor, classes: int, temperature: float = 0.07
) -> tuple[Tensor, Tensor]:
    """Classes in falling order of their share of the votes, and the shares: both (Q, C).

    Every neighbour votes for its class with weight exp(similarity / temperature). Among equal
    votes, classes without any included, the lower number comes first, as in the original.
    similarities (Q, K) with the nearest first; labels, int64 (Q, K), are the neighbours' classes.
    """
    # The largest exponent is 0: the shares are the same, and no temperature overflows.
    weights = ((similarities - similarities[:, :1]) / temperature).exp()
    total = weights.new_zeros(len(weights), classes).scatter_add_(1, labels, weights)
    shares, order = total.sort(dim=1, descending=True, stable=True)
    return order, shares / weights.sum(dim=1, keepdim=True)


def normalized_block(features: Rows, start: int, rows: int, device: torch.device | str) -> Tensor:
    """Up to `rows` rows from `start`, float32, scaled to length 1."""
    block = torch.from_numpy(np.array(features[start : start + rows], dtype=np.float32))
    return F.normalize(block.to(device), dim=1)


class _Scratch:
    """Memory for a block of similarities, used again: fresh pages cost more than the arithmetic."""

    def __init__(self, size: int, device: torch.device | str) -> None:
        self._similarities = torch.empty(size, dtype=torch.float32, device=device)
        self._ordered = torch.empty(size, dtype=torch.int32, device=device)
        self._keys = torch.empty(size, dtype=torch.int64, device=device)

    def product(self, q: Tensor, x: Tensor) -> Tensor:
        """Similarities (q, m) of unit vectors (q, D) and (m, D)."""
        out = self._similarities[: len(q) * len(x)].view(len(q), len(x))
        return torch.mm(q, x.T, out=out)

    def merged(self, best: Tensor, similarities: Tensor, start: int, k: int) -> Tensor:
        """The k largest of the keys known, int64 (q, k or fewer), and those of a block that starts
        at row `start`."""
        found = self._beyond(best, similarities, start) if best.shape[1] == k else None
        if found is None:
            found = self.best(similarities, start, k)
        both = torch.cat([best, found], dim=1)
        return both.topk(min(k, both.shape[1]), dim=1).values

    def _beyond(self, best: Tensor, similarities: Tensor, start: int) -> Tensor | None:
        """Keys of what is nearer than the last of the best, int64 (q, …), filled up with the least.

        Equals come too late: their rows are higher. Most blocks hold a few such rows for a query,
        found by one look at the maxima of groups of columns. None where they are many.
        """
        q, m = similarities.shape
        if m % GROUP:
            return None
        groups = similarities.view(q, GROUP, m // GROUP)  # of columns that lie m / GROUP apart
        worst = _from_keys(best[:, -1:])[0]
        query, at = (groups.amax(dim=1) > worst).nonzero(as_tuple=True)
        if len(query) > similarities.numel() // (2 * GROUP):
            return None
        values = groups[query, :, at]
        hit, inside = (values > worst[query]).nonzero(as_tuple=True)
        query = query[hit]
        columns = inside * (m // GROUP) + at[hit]
        keys = self.keys(values[hit, inside][None], start, columns[None])[0]
        # The finds of a query lie behind one another; their places among them become columns.
        counts = torch.bincount(query, minlength=q)
        place = torch.arange(len(query), device=query.device) - (counts.cumsum(0) - counts)[query]
        found = best.new_full((q, int(counts.max())), torch.iinfo(torch.int64).min)
        found[query, place] = keys
        return found

    def best(self, similarities: Tensor, start: int, k: int) -> Tensor:
        """Keys of the k nearest rows of a block that starts at row `start`: int64 (q, k or all).

        The k largest lie in the k groups of columns with the largest maxima, so only those are
        looked at closely: a tenth of the work, and the same rows, ties included, because among
        equal maxima the group of lower rows comes first.
        """
        q, m = similarities.shape
        group = 32 if k <= 64 else 8
        if m % group or 2 * k * group > m:
            return self.keys(similarities, start).topk(min(k, m), dim=1).values
        largest = similarities.view(q, m // group, group).amax(dim=2)
        groups = ROW_MASK - (self.keys(largest, 0).topk(k, dim=1).values & ROW_MASK)
        inside = torch.arange(group, device=similarities.device)
        columns = (groups[:, :, None] * group + inside).flatten(1)
        near = self.keys(similarities.gather(1, columns), start, columns)
        return near.topk(k, dim=1).values

    def keys(self, similarities: Tensor, start: int, columns: Tensor | None = None) -> Tensor:
        """Similarity in the high 32 bits, complement of the row in the low ones: int64 (q, m).

        Their order is that of the similarities, the lower row first among equals: `topk` alone
        leaves the order of equals open, and could not be merged over blocks with the same result.
        columns: of the similarities, (q, m), where they are not all in order.
        """
        q, m = similarities.shape
        ordered, keys = self._ordered[: q * m].view(q, m), self._keys[: q * m].view(q, m)
        bits = similarities.view(torch.int32)
        # Floats sort as their bits do, negative ones in reverse.
        torch.bitwise_right_shift(bits, 31, out=ordered)
        ordered.bitwise_and_(0x7FFFFFFF).bitwise_xor_(bits)
        if columns is None:
            columns = torch.arange(m, device=bits.device)
        rows = ROW_MASK - start - columns
        return keys.copy_(ordered).bitwise_left_shift_(ROW_BITS).bitwise_or_(rows)


def _from_keys(keys: Tensor) -> tuple[Tensor, Tensor]:
    ordered = (keys >> ROW_BITS).to(torch.int32)
    bits = ordered ^ ((ordered >> 31) & 0x7FFFFFFF)
    return bits.view(torch.float32), ROW_MASK - (keys & ROW_MASK)
