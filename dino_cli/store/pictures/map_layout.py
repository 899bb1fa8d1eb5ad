"""Where everything lies on a map: points, small pictures that do not overlap, and the legend.

All in pixels of the picture, x to the right, y down.
"""

import itertools
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "MOST_CLASSES",
    "LegendEntry",
    "MapLayout",
    "beside",
    "entries_of",
    "map_layout",
    "spread_out",
]

MOST_CLASSES = 20  # with a colour of their own
DESIGNED = 2400  # pixels across that the sizes below are meant for
DIRECTIONS = ((1, 0), (0, -1), (-1, 0), (0, 1), (0.8, -0.8), (-0.8, -0.8), (-0.8, 0.8), (0.8, 0.8))
FLATTEST, TALLEST = 0.56, 0.9  # height of the map by its width
GAP = 0.36  # of a small picture's side, free around it: there the points show
TILE = (104, 210)  # shortest and longest side of a small picture


@dataclass(frozen=True)
class LegendEntry:
    """A line of the legend. colour: its place among the colours; None for grey."""

    text: str
    count: int
    colour: int | None


@dataclass(frozen=True)
class MapLayout:
    """size: (width, height) of the picture. box: (left, top, right, bottom) of the map in it.

    points: float (N, 2). radius: of a point. side: the longest side of a small picture; chosen:
    rows that may have one; middles: of these, float (C, 2): their points, or beside them where a
    picture would hide many others. unit: pixels for one at 2400 across.
    """

    size: tuple[int, int]
    box: tuple[int, int, int, int]
    points: NDArray[np.float64]
    radius: float
    side: int
    chosen: NDArray[np.int64]
    middles: NDArray[np.float64]
    unit: float


def entries_of(labels: Sequence[str]) -> tuple[list[LegendEntry], NDArray[np.int64]]:
    """The legend, and for each row the number of its colour, -1 for grey.

    Up to 20 classes by name; of more, the 20 largest by size, the rest together in grey. "" is
    unlabelled. No legend when nothing is labelled.
    """
    counts = Counter(label for label in labels if label)
    if not counts:
        return [], np.full(len(labels), -1, np.int64)
    named = sorted(counts)
    if len(named) > MOST_CLASSES:
        named = sorted(counts, key=lambda label: (-counts[label], label))[:MOST_CLASSES]
    numbers = {label: i for i, label in enumerate(named)}
    entries = [LegendEntry(label, counts[label], i) for label, i in numbers.items()]
    if others := len(counts) - len(named):
        rest = sum(counts.values()) - sum(entry.count for entry in entries)
        entries.append(
            LegendEntry(f"{others} other classes" if others > 1 else "1 other", rest, None)
        )
    if without := sum(not label for label in labels):
        entries.append(LegendEntry("unlabelled", without, None))
    return entries, np.array([numbers.get(label, -1) for label in labels], np.int64)


def map_layout(
    places: NDArray[np.float32], width: int, *, legend: float, pictures: bool
) -> MapLayout:
    """Lay out places (N, 2) on a picture of that width. legend: pixels of its widest line, 0 for
    none. Both axes have one scale, unless that would make the map very flat or tall."""
    unit = width / DESIGNED
    margin, head = round(56 * unit), round(150 * unit)
    right = margin + (round(legend + 56 * unit) if legend else 0)
    across = max(width - margin - right, width // 3)
    low, high = places.min(axis=0).astype(np.float64), places.max(axis=0).astype(np.float64)
    span = np.where(high > low, high - low, 1.0)
    down = round(across * min(TALLEST, max(FLATTEST, span[1] / span[0])))
    count = len(places)
    share = math.sqrt(across * down / max(1, count))  # the side of one point's own square
    side = round(min(TILE[1] * unit, max(TILE[0] * unit, 0.62 * share)))
    edge = (side / 2 if pictures else 0) + 26 * unit
    inner = np.array([across - 2 * edge, down - 2 * edge])
    # y of a plane points up.
    at = (places.astype(np.float64) - (low + high) / 2) / span * [1, -1] * inner
    points = at + np.array([margin + across / 2, head + down / 2])
    chosen = np.zeros(0, np.int64)
    if pictures:
        chosen = spread_out(points, side * (1 + (GAP if share < side * 1.2 else 0.06)))
    box = margin, head, margin + across, head + down
    return MapLayout(
        size=(width, head + down + margin),
        box=box,
        points=points,
        radius=min(9 * unit, max(2.6 * unit, 0.17 * share)),
        side=side,
        chosen=chosen,
        middles=beside(points, points[chosen], side, box),
        unit=unit,
    )


def spread_out(points: NDArray[np.float64], apart: float) -> NDArray[np.int64]:
    """Rows of points (N, 2) that lie `apart` or more from each other, across or down.

    As many as fit, in a fixed random order: no further point could be added.
    """
    cells = np.floor(points / apart).astype(np.int64)
    taken: dict[tuple[int, int], int] = {}
    for row in np.random.default_rng(0).permutation(len(points)).tolist():
        x, y = int(cells[row, 0]), int(cells[row, 1])
        around = ((x + i, y + j) for i in (-1, 0, 1) for j in (-1, 0, 1))
        near = [taken[cell] for cell in around if cell in taken]
        if not near or np.abs(points[near] - points[row]).max(axis=1).min() >= apart:
            taken[x, y] = row  # a cell holds one: two in it would be too near
    return np.array(sorted(taken.values()), np.int64)


def beside(
    points: NDArray[np.float64],
    middles: NDArray[np.float64],
    side: int,
    box: tuple[int, int, int, int],
) -> NDArray[np.float64]:
    """Where small pictures go so that they hide few of the points (N, 2): middles, (C, 2).

    Each stays on its own point, or moves off it, inside the box, to where it hides less than half
    as many and touches no other picture.
    """
    left, top, right, bottom = box
    cell = max(1, side // 16)
    size = ((bottom - top) // cell + 1, (right - left) // cell + 1)
    columns, rows = ((points - [left, top]) // cell).astype(np.int64).T
    counts = np.zeros(size, np.int64)
    np.add.at(counts, (rows.clip(0, size[0] - 1), columns.clip(0, size[1] - 1)), 1)
    sums = np.pad(counts.cumsum(axis=0).cumsum(axis=1), ((1, 0), (1, 0)))

    def hidden(middle: NDArray[np.float64]) -> int:
        first = ((middle - side / 2 - [left, top]) // cell).astype(int)
        last = first + side // cell + 1
        x0, x1 = np.clip([first[0], last[0]], 0, size[1]).tolist()
        y0, y1 = np.clip([first[1], last[1]], 0, size[0]).tolist()
        return int(sums[y1, x1] - sums[y0, x1] - sums[y1, x0] + sums[y0, x0])

    placed = middles.copy()
    for i, own in enumerate(middles):
        best, least = own, (hidden(own) - 1) / 2  # without its own point
        for direction, away in itertools.product(DIRECTIONS, (0.72, 1.0)):
            middle = own + np.array(direction) * away * side
            low, high = middle - side / 2, middle + side / 2
            inside = (low > [left, top]).all() and (high < [right, bottom]).all()
            others = np.abs(placed - middle).max(axis=1) < side * (1 + GAP / 4)
            others[i] = False
            if inside and not others.any() and (many := hidden(middle)) < least:
                best, least = middle, many
        placed[i] = best
    return placed
