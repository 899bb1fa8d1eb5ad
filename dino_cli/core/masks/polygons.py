"""A mask as polygons along the edges of its pixels.

A corner lies where the border of the mask turns. Corners of one row, in order, are joined in pairs
by horizontal edges, corners of one column by vertical ones; following them in turn gives the rings.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["polygons"]

Mask = NDArray[np.bool_]


def polygons(mask: Mask) -> list[list[int]]:
    """The 4-connected parts of a mask (H, W), each as one polygon [x, y, x, y, …] in pixels.

    x runs from 0 to W, y from 0 to H, and the mask is exactly what lies inside. Outer rings run
    clockwise. A hole is joined to the ring above it by a slit of no width, there and back, and runs
    the other way, so that both the even-odd and the winding rule leave it empty. Parts come in the
    order of their topmost, then leftmost corner.
    """
    corners = _corners(mask)
    outer: list[int] = []
    holes: list[int] = []
    seen = bytearray(len(corners.after))
    for first, next_one in enumerate(corners.after):
        if seen[first]:
            continue
        while not seen[next_one]:
            seen[next_one] = 1
            next_one = corners.after[next_one]
        # The ring's topmost, then leftmost corner: what lies below and right of it is in the ring.
        at = (corners.y[first], corners.x[first])
        (outer if mask[at] else holes).append(first)
    _join_holes(mask, corners, holes)
    return [_ring(corners, first) for first in outer]


@dataclass(frozen=True)
class _Corners:
    """Corners from top to bottom, left to right. after: the next one with the mask on the right."""

    x: list[int]
    y: list[int]
    after: list[int]
    keys: NDArray[np.int64]  # y · (W + 1) + x, ascending

    def add(self, x: int, y: int, after: int) -> int:
        self.x.append(x)
        self.y.append(y)
        self.after.append(after)
        return len(self.x) - 1


def _corners(mask: Mask) -> _Corners:
    height, width = mask.shape
    padded = np.zeros((height + 2, width + 2), np.uint8)
    padded[1:-1, 1:-1] = mask
    # A bit for each pixel around a point: 1 above left, 2 above right, 4 below left, 8 below right.
    around = padded[:-1, :-1] | padded[:-1, 1:] << 1 | padded[1:, :-1] << 2 | padded[1:, 1:] << 3
    copies = COPIES[around].ravel()
    # Where only opposite pixels are in the mask two rings touch: such a point counts twice.
    points = np.flatnonzero(copies)
    keys = np.repeat(points, copies[points]).astype(np.int64)
    y, x = np.divmod(keys, width + 1)
    bits = around.ravel()[keys]
    number = np.arange(len(keys))
    second = np.zeros(len(keys), bool)
    second[1:] = keys[1:] == keys[:-1]
    # The first copy is the end of the edge from the left, the second the start of the one to the
    # right. Mask pixels that touch at a corner only are different rings' (4-connected), so the
    # first copy has the edge up (bits 1 and 8) or the edge down (2 and 4).
    lower = np.where(bits == 6, ~second, second)
    down = np.lexsort((lower, y, x))
    after = np.empty(len(keys), np.int64)
    left, right = number[::2], number[1::2]
    below = bits[left] & 8 > 0
    after[np.where(below, left, right)] = np.where(below, right, left)
    top, bottom = down[::2], down[1::2]
    beside = bits[top] & 4 > 0
    after[np.where(beside, top, bottom)] = np.where(beside, bottom, top)
    return _Corners(x.tolist(), y.tolist(), after.tolist(), keys)


COPIES = np.array([0, 1, 1, 0, 1, 0, 2, 1, 1, 2, 0, 1, 0, 1, 1, 0], np.uint8)


def _join_holes(mask: Mask, corners: _Corners, holes: list[int]) -> None:
    """Splice each hole into the ring that is met first straight above its first corner."""
    hits = []
    for hole in holes:
        x, y = corners.x[hole], corners.y[hole]
        column = mask[:y, x - 1] & mask[:y, x]
        top = 0 if column.all() else y - int(column[::-1].argmin())
        key = top * (mask.shape[1] + 1) + x
        at = int(np.searchsorted(corners.keys, key))
        if at == len(corners.keys) or corners.keys[at] != key:
            at -= 1  # within the edge that starts there; it runs to the right
        hits.append((at, x, top, hole))
    for at, x, top, hole in sorted(hits, reverse=True):  # of those on one edge the last one first
        back = corners.add(x, top, corners.after[at])
        # A hole is entered at its first corner and left along its top edge, which is never hit.
        corners.after[hole + 1] = corners.add(corners.x[hole], corners.y[hole], back)
        corners.after[at] = hole if corners.x[at] == x else corners.add(x, top, hole)


def _ring(corners: _Corners, first: int) -> list[int]:
    ring, at = [corners.x[first], corners.y[first]], corners.after[first]
    while at != first:
        ring += (corners.x[at], corners.y[at])
        at = corners.after[at]
    return ring
