"""Pictures of patch features: colours of the patches, alone and beside the photo."""

import re
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from dino_cli.core.masks.layout import PatchLayout
from dino_cli.core.pca.colours import Components
from dino_cli.store.writing.atomic import atomic_write
from dino_cli.store.writing.tensors import save_tensors

__all__ = ["PCA_NAMES", "beside", "colour_picture", "contact_sheet", "write_components"]

PCA_NAMES = re.compile(r"pca\.(npy|png|mp4)|beside\.(png|mp4)")
BACKGROUND = (18, 18, 20)
GAP = 8
SHEET_SIDE = 200  # pixels of a photo on the contact sheet

Pixels = NDArray[np.uint8]


def colour_picture(
    colours: NDArray[np.float32], inside: NDArray[np.bool_], layout: PatchLayout
) -> Pixels:
    """Colours of the patches (h, w, 3) in [0, 1] at the layout's photo size, flat squares.

    What is not inside (h, w), or lies in no patch, is nearly black.
    """
    levels = np.rint(colours.clip(0, 1) * 255).astype(np.uint8)
    levels[~inside] = BACKGROUND
    covered = np.asarray(layout.enlarge(np.ones(inside.shape, np.uint8)), bool)
    picture = np.stack([layout.enlarge(levels[..., channel]) for channel in range(3)], axis=-1)
    picture[~covered] = BACKGROUND
    return np.asarray(picture, np.uint8)


def beside(photo: Pixels, colours: Pixels) -> Pixels:
    """A photo and its colours in one picture, side by side, or above each other if it is wide."""
    axis = 0 if photo.shape[1] > 2 * photo.shape[0] else 1
    shape = list(photo.shape)
    shape[axis] = GAP
    return np.concatenate([photo, np.full(shape, 255, np.uint8), colours], axis=axis)


def contact_sheet(pairs: Sequence[tuple[Pixels, Pixels]]) -> Pixels:
    """Photos with their colours below, in rows, so that the same colour can be followed."""
    cells = [[_fitted(one) for one in pair] for pair in pairs]
    columns = min(len(cells), max(4, round(len(cells) ** 0.5 * 1.5)))
    rows = -(-len(cells) // columns)
    width, height = SHEET_SIDE + GAP, 2 * SHEET_SIDE + 3 * GAP
    sheet = Image.new("RGB", (columns * width + GAP, rows * height + GAP), (255, 255, 255))
    for number, (photo, colours) in enumerate(cells):
        x, y = GAP + number % columns * width, GAP + number // columns * height
        for down, one in ((0, photo), (SHEET_SIDE + GAP // 2, colours)):
            left, top = (SHEET_SIDE - one.shape[1]) // 2, (SHEET_SIDE - one.shape[0]) // 2
            ImageDraw.Draw(sheet).rectangle(
                (x, y + down, x + SHEET_SIDE - 1, y + down + SHEET_SIDE - 1), fill=(240, 238, 235)
            )
            sheet.paste(Image.fromarray(one), (x + left, y + down + top))
    return np.asarray(sheet)


def write_components(path: Path, components: Components, facts: dict[str, str]) -> None:
    """mean, directions, low, high, shares as safetensors, so that others can be coloured alike."""
    tensors = {
        name: getattr(components, name).contiguous()
        for name in ("mean", "directions", "low", "high", "shares")
    }
    with atomic_write(path) as temporary:
        save_tensors(temporary, tensors, facts)


def _fitted(picture: Pixels) -> Pixels:
    scale = SHEET_SIDE / max(picture.shape[:2])
    size = (max(1, round(picture.shape[1] * scale)), max(1, round(picture.shape[0] * scale)))
    return np.asarray(cv2.resize(picture, size, interpolation=cv2.INTER_AREA), np.uint8)
