"""What the result folder of one photo holds: attention as numbers, heat maps, masks, overlays."""

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from dino_cli.core.layout import PatchLayout
from dino_cli.core.refine import cut, guided_mask
from dino_cli.store.figures import (
    Tile,
    heat_map,
    heat_tile,
    overlay,
    png,
    side_by_side,
    tile_size,
)

__all__ = ["RESULT_NAMES", "Compared", "Shown", "attention_files"]

RESULT_NAMES = re.compile(
    r"attention\.npy|grid\.png|(heat|overlay|mask)_(head\d+|mean|best|seeded|cut)\.png"
)


@dataclass(frozen=True)
class Shown:
    """A heat map, a mask, or a mask and the heat map that it came from; one entry per patch.

    name: as in `mask_{name}.png`. attention: float32 (h, w), mask: bool (h, w).
    """

    name: str
    attention: NDArray[np.float32] | None = None
    mask: NDArray[np.bool_] | None = None


@dataclass(frozen=True)
class Compared:
    """A tile of `grid.png`: a heat map (h, w) under the outline of its mask."""

    caption: str
    attention: NDArray[np.float32]
    mask: NDArray[np.bool_]
    marked: bool = False


def attention_files(
    view: NDArray[np.uint8],
    layout: PatchLayout,
    attention: NDArray[np.float32],
    shown: Sequence[Shown],
    compared: Sequence[Compared],
    *,
    refine: bool,
) -> dict[str, bytes]:
    """All files of one photo: name → content.

    view: the photo (H', W', 3) at the size of overlays and heat maps; layout: of the patches over
    the original photo; attention: (H, h, w), kept as it is; shown: what gets pictures of its own;
    compared: the tiles of `grid.png` after the photo. refine: fit the shown masks to the photo's
    edges (`core.refine`).
    """
    files = {"attention.npy": _npy(attention)}
    small = layout.at((view.shape[0], view.shape[1]))
    height, width = layout.photo
    tiles = [Tile(_shrunk(view, layout), "photo", f"{width} x {height}")]
    for one in shown:
        if one.attention is not None:
            files[f"heat_{one.name}.png"] = png(heat_map(one.attention, small))
        if one.mask is None:
            continue
        here, full = _at_sizes(one.mask, view, small, layout, refine)
        laid_over = overlay(view, here)
        files[f"mask_{one.name}.png"] = png(full)
        files[f"overlay_{one.name}.png"] = png(laid_over)
        if one.attention is None:
            tiles.append(Tile(_shrunk(laid_over, layout), f"{one.name} mask"))
    there = layout.at(tile_size(layout.photo))
    for tile in compared:
        outlined = np.asarray(there.enlarge(tile.mask), bool)
        tiles.append(heat_tile(tile.attention, outlined, there, tile.caption, tile.marked))
    files["grid.png"] = png(side_by_side(tiles))
    return files


def _at_sizes(
    mask: NDArray[np.bool_],
    view: NDArray[np.uint8],
    small: PatchLayout,
    layout: PatchLayout,
    refine: bool,
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """A mask of patches at the view's size and at the photo's; False where no patch lies."""
    if not refine:
        here = np.asarray(small.enlarge(mask), bool)
        return here, here if small == layout else np.asarray(layout.enlarge(mask), bool)
    rows, columns = small.covered
    soft = guided_mask(mask, np.ascontiguousarray(view[:rows, :columns]))
    here = _placed(cut(soft, small.covered), small.photo)
    return here, here if small == layout else _placed(cut(soft, layout.covered), layout.photo)


def _placed(mask: NDArray[np.bool_], size: tuple[int, int]) -> NDArray[np.bool_]:
    placed = np.zeros(size, dtype=bool)
    placed[: mask.shape[0], : mask.shape[1]] = mask
    return placed


def _shrunk(picture: NDArray[np.uint8], layout: PatchLayout) -> NDArray[np.uint8]:
    size = tile_size(layout.photo)
    larger = picture.shape[0] < size[0]
    how = cv2.INTER_CUBIC if larger else cv2.INTER_AREA
    return np.asarray(cv2.resize(picture, size[::-1], interpolation=how), np.uint8)


def _npy(values: NDArray[np.float32]) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.ascontiguousarray(values, np.float32))
    return buffer.getvalue()
