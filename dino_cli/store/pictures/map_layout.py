"""Where everything lies on a map: points, small pictures that do not overlap, and the legend.

All in pixels of the picture, x to the right, y down.
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

__all__ = [
    "MOST_CLASSES",
    "LegendEntry",
    "MapLayout",
    "entries_of",
    "map_layout",
    "place_pictures",
    "spread_values",
]

MOST_CLASSES = 20  # with a colour of their own
DESIGNED = 2400  # pixels across that the sizes below are meant for
FLATTEST, TALLEST = 0.56, 0.9  # height of the map by its width
FREE = 0.12  # of a small picture's side, between it and the next
REACH = 0.95  # … and from its middle to its point, at most
APART = 1.7  # … and from one that hides points to any other
HIDDEN = 0.05  # of all points, how many small pictures may hide
STRIPE = 0.06  # of the map's width or height: the widest empty stripe across it
MASS, ROOM = 0.8, 0.45  # that share of the points has at least this share of the width or height
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
    rows that may have one; middles: of these, float (C, 2): their points, or beside them where the
    picture would hide others. unit: pixels for one at 2400 across. to_scale: whether distances
    along an axis are those of the places.
    """

    size: tuple[int, int]
    box: tuple[int, int, int, int]
    points: NDArray[np.float64]
    radius: float
    side: int
    chosen: NDArray[np.int64]
    middles: NDArray[np.float64]
    unit: float
    to_scale: bool


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
    none. Both axes have one scale, unless that would make the map very flat or tall, or a few far
    points would leave it empty."""
    unit = width / DESIGNED
    margin, head = round(56 * unit), round(150 * unit)
    right = margin + (round(legend + 56 * unit) if legend else 0)
    across = max(width - margin - right, width // 3)
    spread = np.stack([spread_values(column) for column in places.T], axis=1)
    low, high = spread.min(axis=0), spread.max(axis=0)
    span = np.where(high > low, high - low, 1.0)
    shape = span[1] / span[0]
    down = round(across * min(TALLEST, max(FLATTEST, shape)))
    share = math.sqrt(across * down / max(1, len(places)))  # the side of one point's own square
    side = round(min(TILE[1] * unit, max(TILE[0] * unit, 0.62 * share)))
    edge = (side / 2 if pictures else 0) + 26 * unit
    inner = np.array([across - 2 * edge, down - 2 * edge])
    if FLATTEST <= shape <= TALLEST:  # the edges would leave the axes two scales
        inner = span * (inner / span).min()
    # y of a plane points up.
    at = (spread - (low + high) / 2) / span * [1, -1] * inner
    points = at + np.array([margin + across / 2, head + down / 2])
    radius = min(9 * unit, max(2.6 * unit, 0.17 * share))
    box = margin, head, margin + across, head + down
    chosen, middles = np.zeros(0, np.int64), np.zeros((0, 2))
    if pictures:
        chosen, middles = place_pictures(points, side, radius, box)
    return MapLayout(
        size=(width, head + down + margin),
        box=box,
        points=points,
        radius=radius,
        side=side,
        chosen=chosen,
        middles=middles,
        unit=unit,
        to_scale=bool(np.array_equal(spread, places)),
    )


def spread_values(values: NDArray[np.float32]) -> NDArray[np.float64]:
    """The values (N,) in the same order, without what would leave most of a map empty.

    Gaps are narrowed to 6 % of the whole, and where 80 % of the values are crowded into less than
    45 % of it, all move towards equal distances until they are not. Else the values as they are.
    """
    count = len(values)
    order = np.argsort(values, kind="stable")
    gaps = np.diff(values[order].astype(np.float64))
    # Of few different values each gap is a large share: narrowed for that they would all vanish.
    stripe = max(STRIPE, 4 / (np.count_nonzero(gaps) + 1))
    while gaps.any() and gaps.max() > 1.01 * (widest := stripe * float(gaps.sum())):
        gaps = np.minimum(gaps, widest)  # which makes the whole shorter
    many = math.ceil(MASS * count) - 1
    line = np.concatenate([[0.0], gaps.cumsum()])
    room = float((line[many:] - line[: count - many]).min()) / (line[-1] or 1.0)
    if many and line[-1] and room < ROOM:
        first = np.searchsorted(line, line)  # equal values stay equal
        share = (ROOM - room) / (MASS - room)
        line = (1 - share) * line + share * line[-1] * first / count
    elif np.array_equal(gaps, np.diff(values[order].astype(np.float64))):
        return values.astype(np.float64)
    spread = np.empty(count)
    spread[order] = line
    return spread


class Board:
    """Where points lie, in cells of a sixteenth of a small picture, and what is taken."""

    def __init__(
        self,
        points: NDArray[np.float64],
        side: int,
        radius: float,
        box: tuple[int, int, int, int],
    ) -> None:
        self.corner, self.end = np.array(box[:2]), np.array(box[2:])
        self.side, self.reach = side, side / 2 + radius
        self.cell = max(1, side // 16)
        self.shape = tuple(((self.end - self.corner) // self.cell + 1).tolist()[::-1])
        self.cells = self.cell_of(points)
        counts = np.zeros(self.shape, np.int64)
        np.add.at(counts, (self.cells[:, 1], self.cells[:, 0]), 1)
        self.free = (counts == 0).astype(np.uint8)
        self.sums = np.pad(counts.cumsum(axis=0).cumsum(axis=1), ((1, 0), (1, 0)))
        self.rows: list[int] = []
        self.middles: list[NDArray[np.float64]] = []

    def cell_of(self, places: NDArray[np.float64]) -> NDArray[np.int64]:
        """(N, 2) column and row of the cell at each place."""
        last = [self.shape[1] - 1, self.shape[0] - 1]
        cells: NDArray[np.int64] = ((places - self.corner) // self.cell).clip(0, last).astype(int)
        return cells

    def hidden(self, middles: NDArray[np.float64]) -> NDArray[np.int64]:
        """How many points a picture at each of these places (M, 2) would hide or touch."""
        (x0, y0), (x1, y1) = (self.cell_of(middles + far).T for far in (-self.reach, self.reach))
        x1, y1 = x1 + 1, y1 + 1
        sums = self.sums
        found: NDArray[np.int64] = sums[y1, x1] - sums[y0, x1] - sums[y1, x0] + sums[y0, x0]
        return found

    def fits(self, middle: NDArray[np.float64], apart: float = 1 + FREE) -> bool:
        """Whether a picture there lies in the map and touches no other."""
        half = (0.5 + FREE) * self.side
        if (middle - half < self.corner).any() or (middle + half > self.end).any():
            return False
        near = np.array(self.middles).reshape(-1, 2) - middle
        return bool((np.abs(near).max(axis=1) >= apart * self.side).all())

    def put(self, row: int, middle: NDArray[np.float64]) -> None:
        self.rows.append(row)
        self.middles.append(middle)


def place_pictures(
    points: NDArray[np.float64], side: int, radius: float, box: tuple[int, int, int, int]
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Which of the points (N, 2) get a small picture, and where its middle lies, (C, 2).

    As many as fit without touching each other: on points that have room around them; in free
    places beside one; and, since a crowd has neither, a few that hide 5 % of all points together.
    """
    board = Board(points, side, radius, box)
    rng = np.random.default_rng(0)
    shuffled = rng.permutation(len(points))
    for row in shuffled[board.hidden(points[shuffled]) == 1].tolist():
        if board.fits(points[row]):
            board.put(row, points[row])
    _put_beside(board, points, shuffled)
    left = max(1 if not board.rows else 0, int(HIDDEN * len(points)))
    for row in shuffled.tolist():
        cost = int(board.hidden(points[row : row + 1])[0])
        if (cost <= left or not board.rows) and board.fits(points[row], APART):
            board.put(row, points[row])
            left -= cost
    order = np.argsort(board.rows)
    return np.array(board.rows, np.int64)[order], np.array(board.middles)[order]


def _put_beside(board: Board, points: NDArray[np.float64], shuffled: NDArray[np.int64]) -> None:
    """Pictures into places that hide nothing, the nearest to its point first."""
    step = max(1, board.side // 5)
    half = board.side / 2
    xs, ys = (
        np.arange(low + half, high - half, step)
        for low, high in zip(board.corner, board.end, strict=True)
    )
    places = np.stack(np.meshgrid(xs, ys), axis=-1).reshape(-1, 2)
    places = places[board.hidden(places) == 0] if len(places) else places
    # The nearest cell that holds a point, for every cell.
    _, nearest = cv2.distanceTransformWithLabels(
        board.free, cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL
    )
    cells = board.cell_of(places)
    there = board.cell_of(points)
    rows: dict[int, list[int]] = {}
    for row in shuffled.tolist():
        rows.setdefault(int(nearest[there[row, 1], there[row, 0]]), []).append(row)
    anchors = [rows[label] for label in nearest[cells[:, 1], cells[:, 0]].tolist()]
    firsts = points[[several[0] for several in anchors]].reshape(-1, 2)
    away = np.linalg.norm(firsts - places, axis=1)
    used = set(board.rows)
    for i in np.argsort(away, kind="stable").tolist():
        if away[i] > REACH * board.side:
            break
        row = next((row for row in anchors[i] if row not in used), None)
        if row is not None and board.fits(places[i]):
            board.put(row, places[i])
            used.add(row)
