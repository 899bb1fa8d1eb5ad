"""Surface patterns of the drawn objects: functions of object coordinates that tell where ink goes.

A pattern takes u and v, (h, w) float32 each, and returns (h, w) bool. All lengths are shares of the
object, so a pattern turns, shears and grows with it.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "Pattern",
    "bands",
    "bars",
    "bricks",
    "check_band",
    "chevrons",
    "diamonds",
    "dots",
    "pane",
    "rays",
    "rings",
]

Field = NDArray[np.float32]
Ink = NDArray[np.bool_]
Pattern = Callable[[Field, Field], Ink]


def below(field: NDArray[np.floating[Any]], limit: float) -> Ink:
    """Where a field is under a limit."""
    return np.asarray(field < limit, np.bool_)


def bars(du: float, dv: float, period: float, share: float = 0.5) -> Pattern:
    """Straight stripes across the direction (du, dv); `share` of each period is ink."""

    def ink(u: Field, v: Field) -> Ink:
        return below((u * np.float32(du / period) + v * np.float32(dv / period)) % 1, share)

    return ink


def bricks(u: Field, v: Field) -> Ink:
    """Mortar of a running bond: rows of .09, bricks of .18."""
    row = v / np.float32(0.09)
    along = u / np.float32(0.18) + (np.floor(row) % 2) / 2
    return below(row % 1, 0.24) | below(along % 1, 0.13)


def chevrons(u: Field, v: Field) -> Ink:
    """Zigzag bands."""
    zigzag = np.abs((u - np.float32(0.5)) / np.float32(0.13) % 1 - np.float32(0.5))
    return below((v / np.float32(0.115) + zigzag) % 1, 0.45)


def rays(u0: float, v0: float, count: int) -> Pattern:
    """`count` dark wedges around (u0, v0), the first one upwards."""

    def ink(u: Field, v: Field) -> Ink:
        turn = np.arctan2(u - np.float32(u0), np.float32(v0) - v) / np.float32(2 * np.pi)
        return below(np.abs((turn * count + np.float32(0.5)) % 1 - np.float32(0.5)), 0.14)

    return ink


def dots(period: float, radius: float, du: float, dv: float) -> Pattern:
    """Round dots in rows, every second row shifted by half a period."""

    def ink(u: Field, v: Field) -> Ink:
        row = (v - np.float32(dv)) / np.float32(period * 0.87)
        along = (u - np.float32(du)) / np.float32(period) + (np.floor(row) % 2) / 2
        near = (along % 1 - np.float32(0.5)) ** 2
        near += (np.float32(0.87) * (row % 1 - np.float32(0.5))) ** 2
        return below(near, (radius / period) ** 2)

    return ink


def rings(u0: float, v0: float, period: float) -> Pattern:
    """Concentric circles around (u0, v0)."""

    def ink(u: Field, v: Field) -> Ink:
        distance = np.hypot(u - np.float32(u0), v - np.float32(v0))
        return below(distance / np.float32(period) % 1, 0.36)

    return ink


def diamonds(u: Field, v: Field) -> Ink:
    """Checks standing on their corners, symmetric about u = .5."""
    across, down = (u - np.float32(0.5)) / np.float32(0.2), v / np.float32(0.24)
    return below((np.floor(across + down) + np.floor(across - down)) % 2, 1)


def check_band(top: float, rows: int, cell: float) -> Pattern:
    """`rows` rows of checks from v = top downwards."""

    def ink(u: Field, v: Field) -> Ink:
        row, column = np.floor((v - np.float32(top)) / np.float32(cell)), np.floor(u / cell)
        return below(-row, 1) & below(row, rows) & below((row + column) % 2, 1)

    return ink


def pane(u0: float, v0: float, half: float) -> Pattern:
    """The cross of a window around (u0, v0)."""

    def ink(u: Field, v: Field) -> Ink:
        return below(np.abs(u - np.float32(u0)), half) | below(np.abs(v - np.float32(v0)), half)

    return ink


def bands(u: Field, v: Field) -> Ink:
    """Upright stripes, bent like the ribs of a fish around v = .52."""
    return below((u + np.float32(0.5) * (v - np.float32(0.52)) ** 2) / np.float32(0.125) % 1, 0.5)
