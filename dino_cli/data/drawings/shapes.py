"""The ten drawn objects: polygons in a unit square, with the surface pattern of each.

Object coordinates: u to the right, v downwards, both in [0, 1]. An object is a list of parts,
painted in that order, each over the ones before it.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from dino_cli.data.drawings.patterns import (
    Pattern,
    bands,
    bars,
    bricks,
    check_band,
    chevrons,
    diamonds,
    dots,
    pane,
    rays,
    rings,
)

__all__ = ["SHAPES", "Part", "Role", "shape"]

Points = NDArray[np.float32]  # (n, 2) corners (u, v)
Role = Literal["main", "second", "third", "dark"]
Pair = tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class Part:
    """One polygon (n, 2) float32, its colour, and perhaps a surface pattern in the colour `ink`."""

    points: Points
    colour: Role
    pattern: Pattern | None = None
    ink: Role = "dark"


@cache
def shape(name: str) -> tuple[Part, ...]:
    """The parts of one of `SHAPES`, back to front; built once per process."""
    return tuple(SHAPES[name]())


# --- outlines ---------------------------------------------------------------------------------


def straight(*corners: Pair) -> Points:
    """Polygon with straight edges."""
    return np.array(corners, np.float32)


def smooth(*knots: Pair, corners: tuple[int, ...] = (), steps: int = 8) -> Points:
    """Closed Catmull-Rom curve through the knots, pointed at those that `corners` counts."""
    twice = [1 + (i in corners) for i in range(len(knots))]  # two equal knots stop the tangent
    p1 = np.repeat(np.array(knots, np.float32), twice, axis=0)
    p0, p2, p3 = np.roll(p1, 1, 0), np.roll(p1, -1, 0), np.roll(p1, -2, 0)
    t = (np.arange(steps, dtype=np.float32) / steps)[None, :, None]
    p0, p1, p2, p3 = (p[:, None] for p in (p0, p1, p2, p3))
    curve = p1 + t / 2 * (
        (p2 - p0) + t * (2 * p0 - 5 * p1 + 4 * p2 - p3 + t * (3 * (p1 - p2) + p3 - p0))
    )
    return np.asarray(curve.reshape(-1, 2), np.float32)


def ellipse(u: float, v: float, ru: float, rv: float, steps: int = 32) -> Points:
    """Ellipse around (u, v) with half axes ru and rv."""
    angle = np.arange(steps) * (2 * np.pi / steps)
    return np.stack([u + ru * np.cos(angle), v + rv * np.sin(angle)], 1).astype(np.float32)


def box(left: float, top: float, right: float, bottom: float) -> Points:
    """Upright rectangle."""
    return straight((left, top), (right, top), (right, bottom), (left, bottom))


def limb(*path: Pair, width: float) -> Points:
    """Open path (legs, stems, feelers) thickened to a polygon of the given width."""
    line = np.array(path, np.float32)
    along = np.gradient(line, axis=0)
    along /= np.linalg.norm(along, axis=1, keepdims=True)
    side = np.stack([-along[:, 1], along[:, 0]], 1) * (width / 2)
    return np.concatenate([line + side, (line - side)[::-1]]).astype(np.float32)


def mirrored(points: Points) -> Points:
    """The same outline on the other side of the middle line u = .5."""
    return np.stack([1 - points[:, 0], points[:, 1]], 1)


def both(part: Part) -> tuple[Part, Part]:
    """The part and its mirror image about u = .5; the pattern stays where it is."""
    return part, replace(part, points=mirrored(part.points))


# --- the ten objects ---------------------------------------------------------------------------


def fish() -> list[Part]:
    tail = smooth((0.72, 0.52), (0.98, 0.22), (0.91, 0.52), (0.98, 0.82), corners=(1, 3))
    dorsal = smooth((0.22, 0.4), (0.3, 0.2), (0.46, 0.1), (0.72, 0.2), (0.64, 0.42), corners=(3,))
    belly = smooth((0.34, 0.72), (0.4, 0.86), (0.6, 0.93), (0.58, 0.68), corners=(2,))
    body = smooth(
        (0.02, 0.53), (0.11, 0.37), (0.33, 0.26), (0.58, 0.32), (0.8, 0.47), (0.8, 0.57),
        (0.58, 0.72), (0.33, 0.79), (0.11, 0.69),
    )  # fmt: skip
    head = smooth(
        (0.02, 0.53), (0.11, 0.37), (0.25, 0.285), (0.32, 0.53), (0.25, 0.77), (0.11, 0.69),
        corners=(2, 4),
    )  # fmt: skip
    fin = smooth((0.38, 0.53), (0.55, 0.46), (0.57, 0.6), (0.47, 0.63), corners=(0,))
    return [
        Part(points=tail, colour="second", pattern=bars(0.2, 1, 0.11, 0.35)),
        Part(points=dorsal, colour="second"),
        Part(points=belly, colour="second"),
        Part(points=body, colour="main", pattern=bands, ink="third"),
        Part(points=head, colour="main"),
        Part(points=fin, colour="second"),
        Part(points=ellipse(0.16, 0.45, 0.065, 0.065), colour="third"),
        Part(points=ellipse(0.15, 0.45, 0.028, 0.028), colour="dark"),
        Part(points=limb((0.06, 0.61), (0.1, 0.625), (0.15, 0.6), width=0.015), colour="dark"),
    ]


def house() -> list[Part]:
    roof = straight((0.01, 0.49), (0.5, 0.05), (0.99, 0.49))
    return [
        Part(points=box(0.7, 0.1, 0.82, 0.45), colour="main"),
        Part(points=box(0.68, 0.06, 0.84, 0.13), colour="second"),
        Part(points=box(0.11, 0.47, 0.89, 0.95), colour="main", pattern=bricks),
        Part(points=roof, colour="second"),
        Part(points=ellipse(0.5, 0.32, 0.08, 0.08), colour="third", pattern=pane(0.5, 0.32, 0.015)),
        Part(points=box(0.41, 0.63, 0.59, 0.95), colour="second"),
        Part(points=ellipse(0.55, 0.8, 0.018, 0.018, 12), colour="dark"),
        Part(points=box(0.18, 0.6, 0.34, 0.77), colour="third", pattern=pane(0.26, 0.685, 0.015)),
        Part(points=box(0.66, 0.6, 0.82, 0.77), colour="third", pattern=pane(0.74, 0.685, 0.015)),
        Part(points=box(0.06, 0.94, 0.94, 0.99), colour="third"),
    ]


def conifer() -> list[Part]:
    def tier(top: float, bottom: float, half: float) -> Points:
        waist, tip, hem = top + (bottom - top) * 0.6, bottom - 0.05, bottom - 0.01
        right = [(0.5, top), (0.5 + half * 0.45, waist), (0.5 + half, tip), (0.5 + half / 2, hem)]
        left = [(0.5 - half / 2, hem), (0.5 - half, tip), (0.5 - half * 0.45, waist)]
        return smooth(*right, (0.5, bottom), *left, corners=(0, 2, 6))

    angle = np.arange(10) * np.pi / 5
    radius = np.where(np.arange(10) % 2 == 0, 0.095, 0.042)
    star = np.stack([0.5 + radius * np.sin(angle), 0.1 - radius * np.cos(angle)], 1)
    return [
        Part(points=box(0.42, 0.8, 0.58, 0.99), colour="second", pattern=bars(1, 0, 0.08, 0.3)),
        Part(points=tier(0.43, 0.87, 0.48), colour="main", pattern=chevrons),
        Part(points=tier(0.25, 0.64, 0.38), colour="third"),
        Part(points=tier(0.08, 0.42, 0.28), colour="main", pattern=chevrons),
        Part(points=star.astype(np.float32), colour="second"),
    ]


def flower() -> list[Part]:
    count, u0, v0 = 8, 0.5, 0.355
    petal = smooth(
        (0, -0.06), (0.06, -0.16), (0.098, -0.25), (0.06, -0.33), (0, -0.35), (-0.06, -0.33),
        (-0.098, -0.25), (-0.06, -0.16),
    )  # fmt: skip
    petals = []
    for turn in 2 * np.pi / count * np.array([0, 2, 4, 6, 1, 3, 5, 7]):
        turned = np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
        petals.append((petal @ turned + (u0, v0)).astype(np.float32))
    stem = limb((0.5, 0.4), (0.51, 0.6), (0.5, 0.8), (0.46, 0.99), width=0.06)
    left = smooth((0.49, 0.92), (0.3, 0.9), (0.16, 0.72), (0.38, 0.74), corners=(0, 2))
    right = smooth((0.5, 0.86), (0.6, 0.68), (0.83, 0.62), (0.73, 0.82), corners=(0, 2))
    return [
        Part(points=stem, colour="third"),
        Part(points=left, colour="third"),
        Part(points=right, colour="third"),
        *(Part(points=p, colour="main", pattern=rays(u0, v0, count)) for p in petals),
        Part(points=ellipse(u0, v0, 0.125, 0.125), colour="second"),
    ]


def car() -> list[Part]:
    cabin = smooth(
        (0.2, 0.52), (0.32, 0.28), (0.36, 0.25), (0.64, 0.25), (0.69, 0.28), (0.86, 0.52),
        corners=(0, 5),
    )  # fmt: skip
    body = smooth(
        (0.03, 0.72), (0.02, 0.58), (0.07, 0.51), (0.22, 0.47), (0.84, 0.47), (0.96, 0.53),
        (0.99, 0.62), (0.98, 0.72),
        corners=(0, 7),
    )  # fmt: skip
    rear = straight((0.29, 0.48), (0.38, 0.31), (0.5, 0.31), (0.5, 0.48))
    front = straight((0.54, 0.48), (0.54, 0.31), (0.64, 0.31), (0.75, 0.48))
    parts = [
        Part(points=cabin, colour="main"),
        Part(points=body, colour="main", pattern=check_band(0.53, 2, 0.06)),
        Part(points=rear, colour="third"),
        Part(points=front, colour="third"),
        Part(points=smooth((0.99, 0.55), (0.93, 0.55), (0.93, 0.62), (0.99, 0.62)), colour="third"),
        Part(points=box(0.01, 0.55, 0.06, 0.63), colour="second"),
        Part(points=box(0.0, 0.68, 1.0, 0.74), colour="second"),
    ]
    for u in (0.24, 0.77):
        parts.append(Part(points=ellipse(u, 0.73, 0.12, 0.12), colour="dark"))
        parts.append(Part(points=ellipse(u, 0.73, 0.06, 0.06, 20), colour="third"))
    return parts


def mushroom() -> list[Part]:
    cap = smooth(
        (0.02, 0.5), (0.08, 0.29), (0.27, 0.09), (0.5, 0.03), (0.73, 0.09), (0.92, 0.29),
        (0.98, 0.5), (0.9, 0.57), (0.5, 0.6), (0.1, 0.57),
    )  # fmt: skip
    stem = smooth(
        (0.38, 0.52), (0.38, 0.76), (0.31, 0.95), (0.5, 0.99), (0.69, 0.95), (0.62, 0.76),
        (0.62, 0.52),
        corners=(0, 6),
    )  # fmt: skip
    skirt = smooth(
        (0.37, 0.64), (0.63, 0.64), (0.69, 0.75), (0.5, 0.78), (0.31, 0.75), corners=(0, 1)
    )
    grass = straight(
        (0.1, 0.99), (0.06, 0.76), (0.19, 0.9), (0.22, 0.7), (0.3, 0.9), (0.38, 0.8), (0.38, 0.99)
    )
    return [
        Part(points=stem, colour="third"),
        Part(points=skirt, colour="second", pattern=bars(1, 0, 0.07, 0.35)),
        Part(points=cap, colour="main", pattern=dots(0.24, 0.085, 0.02, 0.07), ink="third"),
        Part(points=smooth((0.1, 0.55), (0.5, 0.51), (0.9, 0.55), (0.5, 0.62)), colour="second"),
        *both(Part(points=grass, colour="second")),
    ]


def butterfly() -> list[Part]:
    upper = smooth(
        (0.47, 0.46), (0.38, 0.22), (0.18, 0.07), (0.03, 0.1), (0.02, 0.3), (0.12, 0.48),
        (0.3, 0.54),
        corners=(0,),
    )  # fmt: skip
    lower = smooth(
        (0.47, 0.5), (0.26, 0.5), (0.1, 0.62), (0.12, 0.82), (0.25, 0.93), (0.38, 0.82),
        corners=(0,),
    )  # fmt: skip
    feeler = limb((0.49, 0.28), (0.45, 0.17), (0.38, 0.08), (0.33, 0.07), width=0.022)
    body = smooth(
        (0.5, 0.3), (0.54, 0.4), (0.535, 0.65), (0.5, 0.84), (0.465, 0.65), (0.46, 0.4)
    )  # fmt: skip
    return [
        Part(points=lower, colour="main", pattern=rings(0.255, 0.71, 0.12)),
        Part(points=mirrored(lower), colour="main", pattern=rings(0.745, 0.71, 0.12)),
        Part(points=upper, colour="main", pattern=rings(0.2, 0.28, 0.13)),
        Part(points=mirrored(upper), colour="main", pattern=rings(0.8, 0.28, 0.13)),
        *both(Part(points=ellipse(0.2, 0.28, 0.075, 0.075, 20), colour="second")),
        *both(Part(points=ellipse(0.255, 0.71, 0.065, 0.065, 20), colour="third")),
        *both(Part(points=feeler, colour="dark")),
        Part(points=body, colour="second", pattern=bars(0, 1, 0.09, 0.4)),
        Part(points=ellipse(0.5, 0.3, 0.055, 0.055, 20), colour="dark"),
    ]


def sailboat() -> list[Part]:
    hull = smooth(
        (0.04, 0.74), (0.5, 0.77), (0.97, 0.72), (0.89, 0.86), (0.78, 0.96), (0.24, 0.96),
        (0.12, 0.87),
        corners=(0, 2, 4, 5),
    )  # fmt: skip
    sail = smooth((0.51, 0.1), (0.76, 0.34), (0.92, 0.67), (0.51, 0.67), corners=(0, 2, 3))
    jib = smooth((0.49, 0.16), (0.49, 0.67), (0.1, 0.67), (0.32, 0.46), corners=(0, 1, 2))
    return [
        Part(points=straight((0.5, 0.01), (0.5, 0.11), (0.32, 0.06)), colour="second"),
        Part(points=sail, colour="main", pattern=bars(0, 1, 0.13)),
        Part(points=jib, colour="third"),
        Part(points=box(0.487, 0.01, 0.513, 0.77), colour="dark"),
        Part(points=hull, colour="second"),
        Part(points=ellipse(0.5, 0.855, 0.04, 0.04, 20), colour="third"),
        *both(Part(points=ellipse(0.32, 0.855, 0.04, 0.04, 20), colour="third")),
    ]


def beetle() -> list[Part]:
    wing = smooth(
        (0.5, 0.35), (0.36, 0.34), (0.24, 0.42), (0.19, 0.6), (0.25, 0.81), (0.38, 0.94),
        (0.5, 0.98),
        corners=(0, 6),
    )  # fmt: skip
    collar = smooth(
        (0.27, 0.4), (0.3, 0.25), (0.5, 0.21), (0.7, 0.25), (0.73, 0.4), (0.5, 0.36),
    )  # fmt: skip
    legs = (
        limb((0.3, 0.42), (0.14, 0.36), (0.05, 0.22), width=0.045),
        limb((0.26, 0.6), (0.1, 0.6), (0.01, 0.68), width=0.045),
        limb((0.3, 0.78), (0.14, 0.84), (0.07, 0.98), width=0.045),
        limb((0.45, 0.12), (0.38, 0.05), (0.28, 0.02), width=0.03),
    )
    return [
        *(part for leg in legs for part in both(Part(points=leg, colour="dark"))),
        *both(Part(points=wing, colour="main", pattern=diamonds, ink="second")),
        Part(points=ellipse(0.5, 0.17, 0.125, 0.1), colour="dark"),
        Part(points=collar, colour="second"),
        *both(Part(points=ellipse(0.43, 0.15, 0.035, 0.035, 16), colour="third")),
    ]


def cat() -> list[Part]:
    ear = smooth(
        (0.05, 0.5), (0.04, 0.28), (0.09, 0.02), (0.27, 0.11), (0.46, 0.26),
        corners=(0, 2, 4),
    )  # fmt: skip
    head = smooth(
        (0.5, 0.22), (0.7, 0.24), (0.9, 0.38), (0.97, 0.6), (0.87, 0.8), (0.68, 0.93),
        (0.5, 0.97), (0.32, 0.93), (0.13, 0.8), (0.03, 0.6), (0.1, 0.38), (0.3, 0.24),
    )  # fmt: skip
    nose = smooth((0.41, 0.71), (0.5, 0.68), (0.59, 0.71), (0.5, 0.79), corners=(3,))
    mouth = limb((0.4, 0.84), (0.45, 0.87), (0.5, 0.83), (0.55, 0.87), (0.6, 0.84), width=0.015)
    striped = bars(0.7, 0.7, 0.13, 0.38)
    return [
        *both(Part(points=ear, colour="main", pattern=striped)),
        *both(Part(points=straight((0.12, 0.3), (0.135, 0.13), (0.29, 0.23)), colour="second")),
        Part(points=head, colour="main", pattern=striped),
        *both(Part(points=ellipse(0.28, 0.53, 0.11, 0.1), colour="third")),
        *both(Part(points=ellipse(0.29, 0.53, 0.035, 0.08, 20), colour="dark")),
        Part(points=ellipse(0.5, 0.79, 0.2, 0.13), colour="third"),
        Part(points=nose, colour="second"),
        Part(points=mouth, colour="dark"),
    ]


SHAPES: dict[str, Callable[[], list[Part]]] = {
    "fish": fish,
    "house": house,
    "conifer": conifer,
    "flower": flower,
    "car": car,
    "mushroom": mushroom,
    "butterfly": butterfly,
    "sailboat": sailboat,
    "beetle": beetle,
    "cat": cat,
}
