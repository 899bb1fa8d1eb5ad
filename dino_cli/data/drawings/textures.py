"""Dull patchwork backgrounds for the drawn images, and the fractal noise they are made of.

All random numbers are drawn before the size enters, so a background is the same at any resolution.
Letters: S side of the square in pixels, C fields. Image coordinates x, y run over [0, 1].
"""

from typing import Any, Literal

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

__all__ = ["TEXTURES", "Backgrounds", "fractal", "hsv", "patchwork", "texture"]

Backgrounds = Literal["seen", "unseen"]
Field = NDArray[np.float32]  # (S, S)

TEXTURES: dict[Backgrounds, tuple[str, ...]] = {
    "seen": ("fractal", "stripes", "gradient", "camouflage", "dots"),
    "unseen": ("checker", "bricks", "rings", "marble"),
}


def hsv(hue: float, saturation: float, value: float) -> NDArray[np.float32]:
    """RGB (3,) float32 in [0, 255] of a hue in turns (any real), saturation and value in [0, 1]."""
    ramp = (np.array([5, 3, 1]) + hue * 6) % 6
    drop = np.clip(np.minimum(ramp, 4 - ramp), 0, 1)
    return np.asarray(255 * value * (1 - saturation * drop), np.float32)


def fractal(
    rng: Generator, size: int, fields: int, cells: tuple[int, ...] = (3, 6, 12, 24)
) -> NDArray[np.float32]:
    """Smooth noise (S, S, C) around .5: one random lattice per entry of `cells`, ever weaker."""
    noise: NDArray[np.float32] = np.zeros((size, size, fields), np.float32)
    weights = 0.5 ** np.arange(len(cells))
    weights /= weights.sum()
    for count, weight in zip(cells, weights, strict=True):
        lattice = rng.random((count, count, fields), np.float32) * np.float32(weight)
        up = cv2.resize(lattice, (size, size), interpolation=cv2.INTER_CUBIC)
        noise += up.reshape(size, size, fields)
    return noise


def patchwork(rng: Generator, size: int, backgrounds: Backgrounds) -> NDArray[np.uint8]:
    """Background (S, S, 3) uint8 RGB: 5 to 9 textured patches with ragged edges, and some clutter.

    One texture and colour per picture would let a network tell pictures apart by their background
    and never look at the object; hence many patches.
    """
    count = int(rng.integers(5, 10))
    sites = rng.uniform(-0.05, 1.05, (count, 2)).astype(np.float32)
    reach = np.float32(rng.uniform(0.05, 0.35))
    names = rng.choice(TEXTURES[backgrounds], 3)
    chosen = rng.integers(0, 3, count)
    strength = rng.uniform(0.2, 0.9, count).astype(np.float32)
    first = np.stack([_dull(rng) for _ in range(count)])
    second = np.stack([_dull(rng) for _ in range(count)])
    noise = fractal(rng, size, 4)
    fields = [texture(str(name), rng, noise[..., 2 + i % 2]) for i, name in enumerate(names)]

    axis = (np.arange(size, dtype=np.float32) + np.float32(0.5)) / size
    x = axis[None, :] + reach * (noise[..., 0] - np.float32(0.5))
    y = axis[:, None] + reach * (noise[..., 1] - np.float32(0.5))
    nearest = np.full((size, size), np.inf, np.float32)
    patch = np.zeros((size, size), np.intp)
    for i, (site_x, site_y) in enumerate(sites):
        distance = (x - site_x) ** 2 + (y - site_y) ** 2
        closer = distance < nearest
        patch[closer] = i
        nearest = np.minimum(nearest, distance)

    mix = np.choose(chosen[patch], fields) * strength[patch]
    image = (first[patch] + (second - first)[patch] * mix[..., None]).astype(np.uint8)
    for _ in range(int(rng.integers(4, 7))):
        _clutter(rng, image)
    return image


def texture(name: str, rng: Generator, noise: Field) -> Field:
    """One texture (S, S) float32 in [0, 1]; fractal, camouflage and marble are made of `noise`."""
    size = len(noise)
    axis = (np.arange(size, dtype=np.float32) + np.float32(0.5)) / size
    angle, phase, scale = rng.uniform(0, 2 * np.pi), rng.random(), rng.random()
    cos, sin = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    across = axis[None, :] * cos + axis[:, None] * sin
    along = axis[:, None] * cos - axis[None, :] * sin
    periods = np.float32(3 + 8 * scale)
    field: NDArray[Any]
    match name:
        case "fractal":
            field = np.clip((noise - np.float32(0.5)) * 2.5 + np.float32(0.5), 0, 1)
        case "stripes":
            field = (across * periods + np.float32(phase)) % 1 < 0.5
        case "gradient":
            field = (across - (float(np.minimum(cos, 0)) + float(np.minimum(sin, 0)))) / (
                abs(cos) + abs(sin)
            )
        case "camouflage":
            field = ((noise > 0.44).astype(np.float32) + (noise > 0.54)) / 2
        case "dots":
            periods += 3
            near = (across * periods + np.float32(phase)) % 1 - np.float32(0.5)
            field = near**2 + ((along * periods) % 1 - np.float32(0.5)) ** 2 < 0.085
        case "checker":
            field = (np.floor(across * periods + np.float32(phase)) + np.floor(along * periods)) % 2
        case "bricks":
            row = across * (periods + 2)
            shifted = along * (periods / 2 + 1) + np.floor(row) % 2 / 2
            field = (row % 1 > 0.16) & (shifted % 1 > 0.09)
        case "rings":
            centre_x, centre_y = np.float32(phase), np.float32(angle / (2 * np.pi))
            distance = np.hypot(axis[None, :] - centre_x, axis[:, None] - centre_y)
            field = distance * periods % 1 < 0.5
        case "marble":
            field = np.abs(np.sin(np.float32(np.pi) * (across * periods / 2 + 5 * noise))) ** 0.6
        case _:
            raise ValueError(f"no texture is called {name!r}")
    return field.astype(np.float32)


def _dull(rng: Generator) -> NDArray[np.float32]:
    return hsv(rng.random(), rng.uniform(0, 0.35), rng.uniform(0.2, 0.85))


def _clutter(rng: Generator, image: NDArray[np.uint8]) -> None:
    """Paint one small dull ellipse, polygon or line into the image (S, S, 3)."""
    colour = tuple(float(c) for c in _dull(rng))
    kind = rng.choice(["ellipse", "polygon", "line"])
    centre, reach, turn = rng.random(2), rng.uniform(0.03, 0.09), rng.uniform(0, 2 * np.pi)
    if kind == "polygon":
        radius = rng.uniform(0.6, 1.2, int(rng.integers(3, 7)))
        angle = np.arange(len(radius)) * (2 * np.pi / len(radius))
        points = radius[:, None] * np.stack([np.cos(angle), np.sin(angle)], 1)
    elif kind == "ellipse":
        angle = np.arange(24) * (2 * np.pi / 24)
        points = np.stack([np.cos(angle), rng.uniform(0.5, 1) * np.sin(angle)], 1)
    else:
        points = np.array([[-1.6, -0.12], [1.6, -0.12], [1.6, 0.12], [-1.6, 0.12]])
    rotation = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    pixels = (reach * points @ rotation.T + centre) * len(image) - 0.5
    cv2.fillPoly(image, [np.rint(pixels * 16).astype(np.int32)], colour, cv2.LINE_AA, 4)
