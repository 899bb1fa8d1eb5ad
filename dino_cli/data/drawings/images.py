"""Drawn images: one vivid object of ten classes on a dull patchwork, with its exact mask.

Any number of labelled pictures without a download: for a demonstration that trains in minutes,
and for tests that know where the object is. A picture depends only on the arguments of `draw`.
"""

from dataclasses import dataclass
from typing import Literal, get_args

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from dino_cli.data.drawings.patterns import Pattern
from dino_cli.data.drawings.shapes import SHAPES, Part, Role, shape
from dino_cli.data.drawings.textures import Backgrounds, fractal, hsv, patchwork

__all__ = ["CLASSES", "Drawing", "draw", "union_mask"]

Style = Literal["early", "final"]
Palette = dict[Role, NDArray[np.float32]]

CLASSES: tuple[str, ...] = tuple(SHAPES)
"""The ten class names, in the order of their labels; fit for folder names."""

SMALLEST = 16  # pixels; below this the patterns and outlines are gone
SUPERSAMPLING = 2  # drawn at twice the size, then box-filtered
MASK_SUPERSAMPLING = 4
OUTLINE = 0.012  # of the image's width
PIXEL_NOISE = 5.0  # standard deviation, of 255
FRACTION_BITS = 4  # of the fixed-point coordinates that cv2 takes
OUTSIDE = 0.1  # of the object's bounding box may leave the image on a side


@dataclass(frozen=True, kw_only=True)
class Drawing:
    """One picture."""

    image: NDArray[np.uint8]
    """(S, S, 3) RGB."""
    mask: NDArray[np.bool_]
    """(S, S), true where at least half of the pixel is object."""
    label: int
    """Index into `CLASSES`."""


def draw(
    seed: int,
    index: int,
    size: int = 96,
    *,
    style: Style = "final",
    backgrounds: Backgrounds = "seen",
) -> Drawing:
    """Draw picture number `index` of the endless series that `seed` names.

    Labels cycle: picture i shows class i % 10. At another `size` (pixels, even or odd, at least 16)
    it is the same composition at another resolution; only the pixel noise differs. "early" objects
    are easier (any vivid colours, no surface pattern); "unseen" backgrounds have textures that
    "seen" ones never have, for tests.

    Raises ValueError for a negative seed or index, a size under 16, an unknown style or background.
    """
    _check(seed, index, size, style, backgrounds)
    entropy = (seed, index, get_args(Style).index(style), get_args(Backgrounds).index(backgrounds))
    rng = np.random.default_rng(entropy)
    label = index % len(CLASSES)
    parts = shape(CLASSES[label])

    canvas = patchwork(rng, size * SUPERSAMPLING, backgrounds)
    placed = _placement(rng, parts, (0.5, 0.8) if style == "early" else (0.5, 0.75))
    palette = _palette(rng, style)
    outlined = style == "final" or rng.random() < 0.5
    _paint(canvas, parts, placed, palette, patterned=style == "final", outlined=outlined)

    light_range = rng.uniform(0, 0.25)
    light = fractal(rng, size, 1, cells=(2, 4))[..., 0]
    light = np.float32(1) + np.float32(2 * light_range) * (light - np.float32(0.5))
    image = cv2.resize(canvas, (size, size), interpolation=cv2.INTER_AREA) * light[..., None]
    image += rng.standard_normal((size, size, 3), np.float32) * np.float32(PIXEL_NOISE)
    return Drawing(
        image=np.clip(image + np.float32(0.5), 0, 255).astype(np.uint8),
        mask=union_mask(parts, placed, size),
        label=label,
    )


def _check(seed: int, index: int, size: int, style: str, backgrounds: str) -> None:
    if seed < 0 or index < 0:
        raise ValueError(f"seed and index must not be negative, but they are {seed} and {index}")
    if size < SMALLEST:
        raise ValueError(f"size={size} is too small for a drawing; the least is {SMALLEST}")
    if style not in get_args(Style):
        raise ValueError(f"style={style!r} is unknown; it is 'early' or 'final'")
    if backgrounds not in get_args(Backgrounds):
        raise ValueError(f"backgrounds={backgrounds!r} is unknown; they are 'seen' or 'unseen'")


def _palette(rng: Generator, style: Style) -> Palette:
    """Colours (3,) by role; in the final style all follow from one hue."""
    hue = rng.random()
    dark = hsv(hue, 0.5, 0.1)
    if style == "early":
        main, second, third = (
            hsv(rng.random(), rng.uniform(0.65, 1), rng.uniform(0.7, 1)) for _ in range(3)
        )
    else:
        main, second = hsv(hue, 0.85, 0.9), hsv(hue + 0.5, 0.75, 0.95)
        third = hsv(hue + 0.17, 0.35, 1)
    return {"main": main, "second": second, "third": third, "dark": dark}


def _placement(
    rng: Generator, parts: tuple[Part, ...], widths: tuple[float, float]
) -> NDArray[np.float64]:
    """Affine map (2, 3) from object coordinates to image coordinates in [0, 1]."""
    width = rng.uniform(*widths)
    turn = np.deg2rad(rng.uniform(-15, 15))
    shear, stretch = rng.uniform(-0.12, 0.12, 2)
    mirror = rng.choice([-1, 1])
    rotation = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    scaling = width * np.diag([mirror * (1 + stretch), 1 - stretch])
    linear = rotation @ [[1, shear], [0, 1]] @ scaling
    corners = np.concatenate([part.points for part in parts]) @ linear.T
    low = corners.min(0)
    extent = corners.max(0) - low
    start = rng.random(2) * (1 - extent + 2 * OUTSIDE * extent) - OUTSIDE * extent
    return np.concatenate([linear, (start - low)[:, None]], 1)


def _paint(
    canvas: NDArray[np.uint8],
    parts: tuple[Part, ...],
    placed: NDArray[np.float64],
    palette: Palette,
    *,
    patterned: bool,
    outlined: bool,
) -> None:
    """Paint the parts into the canvas (S, S, 3)."""
    size = len(canvas)
    thickness = max(1, round(OUTLINE * size))
    inverse = np.asarray(np.linalg.inv(placed[:, :2]), np.float64)
    dark = palette["dark"].tolist()
    for part in parts:
        pixels = _pixels(part, placed, size)
        outline = [_fixed(pixels)]
        cv2.fillPoly(canvas, outline, palette[part.colour].tolist(), cv2.LINE_AA, FRACTION_BITS)
        if patterned and part.pattern is not None:
            ink = palette[part.ink].astype(np.uint8)
            _print(canvas, pixels, part.pattern, ink, inverse, placed[:, 2])
        if outlined:
            cv2.polylines(canvas, outline, True, dark, thickness, cv2.LINE_AA, FRACTION_BITS)


def _print(
    canvas: NDArray[np.uint8],
    pixels: NDArray[np.float64],
    pattern: Pattern,
    ink: NDArray[np.uint8],
    inverse: NDArray[np.float64],
    shift: NDArray[np.float64],
) -> None:
    """Put a pattern's ink (3,) on one polygon (n, 2), pixel by pixel: crisp at any size."""
    size = len(canvas)
    left, top = (int(i) for i in np.clip(np.floor(pixels.min(0)), 0, size))
    right, bottom = (int(i) for i in np.clip(np.ceil(pixels.max(0)) + 1, 0, size))
    if left >= right or top >= bottom:
        return
    x = (np.arange(left, right) + 0.5) / size - shift[0]
    y = (np.arange(top, bottom)[:, None] + 0.5) / size - shift[1]
    u = (inverse[0, 0] * x + inverse[0, 1] * y).astype(np.float32)
    v = (inverse[1, 0] * x + inverse[1, 1] * y).astype(np.float32)
    inside = np.zeros(u.shape, np.uint8)
    cv2.fillPoly(inside, [_fixed(pixels - (left, top))], 1, cv2.LINE_8, FRACTION_BITS)
    canvas[top:bottom, left:right][pattern(u, v) & (inside > 0)] = ink


def union_mask(
    parts: tuple[Part, ...], placed: NDArray[np.float64], size: int
) -> NDArray[np.bool_]:
    """Mask (S, S) of the pixels that the parts cover by half or more."""
    # cv2 also fills the pixels that an edge only touches: half a pixel too far, so make them small.
    fine = size * MASK_SUPERSAMPLING
    coverage = np.zeros((fine, fine), np.uint8)
    for part in parts:
        outline = [_fixed(_pixels(part, placed, fine))]
        cv2.fillPoly(coverage, outline, 255, cv2.LINE_8, FRACTION_BITS)
    share = cv2.resize(coverage, (size, size), interpolation=cv2.INTER_AREA)
    return np.asarray(share >= 128, np.bool_)


def _pixels(part: Part, placed: NDArray[np.float64], size: int) -> NDArray[np.float64]:
    """Corners (n, 2) in pixels, counted from the centre of the first pixel as cv2 does."""
    image = part.points @ placed[:, :2].T + placed[:, 2]
    return np.asarray(image * size - 0.5, np.float64)


def _fixed(pixels: NDArray[np.float64]) -> NDArray[np.int32]:
    """cv2's fixed-point coordinates."""
    return np.asarray(np.rint(pixels * 2**FRACTION_BITS), np.int32)
