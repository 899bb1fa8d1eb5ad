"""What is kept of one photo: attention as numbers, heat maps, masks, overlays, all side by side."""

import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dino_cli.core.masks.instances import Parts, connected_parts
from dino_cli.core.masks.layout import PatchLayout
from dino_cli.core.masks.refine import cut, guided_mask
from dino_cli.store.pictures.figures import (
    OUTLINE,
    Tile,
    heat_map,
    heat_tile,
    overlay,
    overlay_of_parts,
    png,
    point_marked,
    side_by_side,
    tile_size,
)

__all__ = [
    "RESULT_NAMES",
    "HeadTile",
    "MaskPicture",
    "PixelMask",
    "Style",
    "attention_pictures",
    "encoded",
    "fitted_masks",
    "laid_over",
    "npy",
]

RESULT_NAMES = re.compile(
    r"attention\.npy|grid\.(png|mp4)"
    r"|(heat|overlay|mask|instances)_(head\d+|mean|best|seeded|tokens|cut)\.(png|mp4)"
)

Pixels = NDArray[np.uint8]
Mask = NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class Style:
    """How masks become pictures. refine: fit them to the photo's edges (`core.masks.refine`);
    instances: each connected part of a mask is an object of its own."""

    refine: bool = False
    instances: bool = False
    palette: str = "inferno"
    outline: tuple[int, int, int] = OUTLINE


@dataclass(frozen=True)
class MaskPicture:
    """A heat map, a mask, or a mask and the heat map that it came from; one entry per patch.

    name: as in `mask_{name}.png`. attention: float32 (h, w), mask: bool (h, w). score: how far the
    mask is to be trusted, 0 to 1; certainty: the same of each patch (h, w). guess: the score is so
    low that the mask is likely wrong.
    """

    name: str
    attention: NDArray[np.float32] | None = None
    mask: Mask | None = None
    score: float = 0.0
    certainty: NDArray[np.float32] | None = None
    guess: bool = False


@dataclass(frozen=True)
class HeadTile:
    """A tile of `grid.png`: a heat map (h, w) under the outline of its mask."""

    caption: str
    attention: NDArray[np.float32]
    mask: Mask
    marked: bool = False


@dataclass(frozen=True)
class PixelMask:
    """A mask in pixels: `here` at the view's size, `full` at the photo's. parts: of `full`, with
    their scores, when objects are told apart; they are shown then instead of `here`."""

    shown: MaskPicture
    here: Mask
    full: Mask
    parts: Parts | None


def fitted_masks(
    view: Pixels, layout: PatchLayout, shown: Sequence[MaskPicture], style: Style
) -> list[PixelMask]:
    """The shown masks in pixels; False where no patch lies.

    view: the photo (H', W', 3) at the size of overlays; layout: of the patches over the original.
    """
    small = layout.at((view.shape[0], view.shape[1]))
    fitted = []
    for one in shown:
        if one.mask is None:
            continue
        here, full = _at_sizes(one.mask, view, small, layout, style.refine)
        parts = None
        if style.instances:
            area = layout.covered[0] * layout.covered[1] / one.mask.size
            even = np.full(one.mask.shape, one.score, np.float32)
            certainty = one.certainty if one.certainty is not None else even
            there = np.asarray(layout.enlarge(certainty), np.float32)
            parts = connected_parts(full, there, smallest=area / 2)
            if style.refine:  # specks that the filter left are no objects
                full = np.asarray(parts.labels > 0)
        fitted.append(PixelMask(one, here, full, parts))
    return fitted


def attention_pictures(
    view: Pixels,
    layout: PatchLayout,
    shown: Sequence[MaskPicture],
    fitted: Sequence[PixelMask],
    compared: Sequence[HeadTile],
    style: Style,
    point: tuple[float, float] | None,
) -> dict[str, Pixels | Mask | Image.Image]:
    """The pictures of one photo or frame by name, without suffix; masks as bool.

    shown: what gets pictures of its own; compared: the tiles of `grid` after the photo; point:
    (y, x) in pixels of the photo, marked on it in the grid.
    """
    pictures: dict[str, Pixels | Mask | Image.Image] = {}
    small = layout.at((view.shape[0], view.shape[1]))
    height, width = layout.photo
    photo = _shrunk(view, layout)
    if point is not None:
        scale = photo.shape[0] / height, photo.shape[1] / width
        photo = point_marked(photo, (point[0] * scale[0], point[1] * scale[1]), style.outline)
    tiles = [Tile(photo, "photo", f"{width} x {height}")]
    for one in shown:
        if one.attention is not None:
            pictures[f"heat_{one.name}"] = heat_map(one.attention, small, style.palette)
    for mask in fitted:
        name = mask.shown.name
        over = laid_over(view, mask, style)
        pictures[f"mask_{name}"] = mask.full
        pictures[f"overlay_{name}"] = over
        if mask.parts is not None:
            # 8 bits: the 255 surest, as no viewer shows labels of more
            labels = np.where(mask.parts.labels > 255, 0, mask.parts.labels)
            pictures[f"instances_{name}"] = labels.astype(np.uint8)
        if mask.shown.attention is None:
            caption = f"{name} mask" + (", a guess" if mask.shown.guess else "")
            tiles.append(Tile(_shrunk(over, layout), caption, f"score {mask.shown.score:.2f}"))
    there = layout.at(tile_size(layout.photo))
    for tile in compared:
        outlined = np.asarray(there.enlarge(tile.mask), bool)
        tiles.append(
            heat_tile(tile.attention, outlined, there, tile.caption, tile.marked, style.palette)
        )
    pictures["grid"] = side_by_side(tiles)
    return pictures


def encoded(pictures: Mapping[str, Pixels | Mask | Image.Image]) -> dict[str, bytes]:
    """Name without suffix → picture, as name.png → content."""
    return {f"{name}.png": png(picture) for name, picture in pictures.items()}


def npy(values: NDArray[np.float32]) -> bytes:
    """An array as the content of a .npy file."""
    buffer = io.BytesIO()
    np.save(buffer, np.ascontiguousarray(values, np.float32))
    return buffer.getvalue()


def laid_over(view: Pixels, mask: PixelMask, style: Style, *, captions: bool = True) -> Pixels:
    """A mask, or its parts, over the photo (H', W', 3) at any size; captions: the parts' scores."""
    size = (view.shape[1], view.shape[0])
    if mask.parts is None:
        here = mask.here.view(np.uint8)
        if here.shape != view.shape[:2]:
            here = np.asarray(cv2.resize(here, size, interpolation=cv2.INTER_NEAREST), np.uint8)
        return overlay(view, here.view(np.bool_), style.outline)
    labels = mask.parts.labels
    if labels.shape != view.shape[:2]:
        labels = np.asarray(cv2.resize(labels, size, interpolation=cv2.INTER_NEAREST), np.int32)
    said = [f"{score:.2f}" if captions else "" for score in mask.parts.scores]
    return overlay_of_parts(view, labels, said)


def _at_sizes(
    mask: Mask, view: Pixels, small: PatchLayout, layout: PatchLayout, refine: bool
) -> tuple[Mask, Mask]:
    """A mask of patches at the view's size and at the photo's; False where no patch lies."""
    if not refine:
        here = np.asarray(small.enlarge(mask), bool)
        return here, here if small == layout else np.asarray(layout.enlarge(mask), bool)
    rows, columns = small.covered
    soft = guided_mask(mask, np.ascontiguousarray(view[:rows, :columns]))
    here = _placed(cut(soft, small.covered), small.photo)
    return here, here if small == layout else _placed(cut(soft, layout.covered), layout.photo)


def _placed(mask: Mask, size: tuple[int, int]) -> Mask:
    placed = np.zeros(size, dtype=bool)
    placed[: mask.shape[0], : mask.shape[1]] = mask
    return placed


def _shrunk(picture: Pixels, layout: PatchLayout) -> Pixels:
    size = tile_size(layout.photo)
    larger = picture.shape[0] < size[0]
    how = cv2.INTER_CUBIC if larger else cv2.INTER_AREA
    return np.asarray(cv2.resize(picture, size[::-1], interpolation=how), np.uint8)
