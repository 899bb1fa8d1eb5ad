"""Photos to measure with, drawn: nothing need be downloaded, and all have the same size."""

from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dino_cli.data.drawings.images import draw

__all__ = ["draw_photos", "write_photos"]

DRAWN = 500  # pixels a side; larger photos are enlarged from that
GRAIN = 4.0  # deviation in grey levels, of enlarged ones: a JPEG has 2 bits a pixel, as a camera's
QUALITY = 90
DIFFERENT = 128  # files; more are further names of the same ones


def draw_photos(count: int, height: int, width: int) -> list[NDArray[np.uint8]]:
    """Pictures of height × width pixels, RGB, (H, W, 3); the same ones in every call."""
    side = max(height, width)
    photos = []
    for i in range(count):
        drawn = draw(0, i, min(side, DRAWN)).image
        if side > DRAWN:
            drawn = cv2.resize(drawn, (side, side), interpolation=cv2.INTER_CUBIC)
            grain = np.random.default_rng(i).standard_normal((side, side, 1), dtype=np.float32)
            drawn = (drawn + GRAIN * grain).clip(0, 255).astype(np.uint8)
        top, left = (side - height) // 2, (side - width) // 2
        photos.append(np.ascontiguousarray(drawn[top : top + height, left : left + width]))
    return photos


def write_photos(folder: Path, count: int, height: int, width: int) -> None:
    """Such pictures as JPEG files in folder/photos, one class as the original's loader needs."""
    inside = folder / "photos"
    inside.mkdir(parents=True)
    names = [inside / f"{i:05d}.jpg" for i in range(count)]
    for name, photo in zip(names, draw_photos(min(count, DIFFERENT), height, width), strict=False):
        Image.fromarray(photo).save(name, quality=QUALITY)
    for i in range(DIFFERENT, count):
        names[i].hardlink_to(names[i % DIFFERENT])
