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

__all__ = ["RESULT_NAMES", "PhotoMask", "attention_files"]

RESULT_NAMES = re.compile(
    r"attention\.npy|grid\.png|(heat|overlay|mask)_(head\d+|mean|best|seeded|cut)\.png"
)


@dataclass(frozen=True)
class PhotoMask:
    """A mask to write, as `mask_{name}.png`, and the heat map that it came from, if one.

    mask: bool (h, w), attention: float32 (h, w) or None; one entry per patch.
    """

    name: str
    mask: NDArray[np.bool_]
    attention: NDArray[np.float32] | None = None


def attention_files(
    view: NDArray[np.uint8],
    layout: PatchLayout,
    attention: NDArray[np.float32],
    shown: Sequence[PhotoMask],
    grid: Sequence[tuple[PhotoMask, bool]],
    *,
    refine: bool,
) -> dict[str, bytes]:
    """All files of one photo: name → content.

    view: the photo (H', W', 3) at the size of overlays and heat maps; layout: of the patches over
    the original photo; attention: (H, h, w), written as it is; shown: what gets its own heat map,
    overlay and mask; grid: the tiles beside the photo in `grid.png`, and whether each is marked.
    refine: fit the shown masks to the photo's edges (`core.refine`).
    """
    files = {"attention.npy": _npy(attention)}
    small = layout.at((view.shape[0], view.shape[1]))
    tiles = [_photo_tile(view, layout)]
    for one in shown:
        if one.attention is not None:
            files[f"heat_{one.name}.png"] = png(heat_map(one.attention, small))
        here, full = _at_sizes(one.mask, view, small, layout, refine)
        files[f"mask_{one.name}.png"] = png(full)
        laid_over = overlay(view, here)
        files[f"overlay_{one.name}.png"] = png(laid_over)
        if one.attention is None:
            tiles.append(Tile(_shrunk(laid_over, layout), f"{one.name} mask"))
    there = layout.at(tile_size(layout.photo))
    for one, marked in grid:
        assert one.attention is not None
        outline = np.asarray(there.enlarge(one.mask), bool)
        tiles.append(heat_tile(one.attention, outline, there, one.name, marked))
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


def _photo_tile(view: NDArray[np.uint8], layout: PatchLayout) -> Tile:
    height, width = layout.photo
    return Tile(_shrunk(view, layout), "photo", f"{width} × {height}")


def _shrunk(picture: NDArray[np.uint8], layout: PatchLayout) -> NDArray[np.uint8]:
    size = tile_size(layout.photo)
    larger = picture.shape[0] < size[0]
    how = cv2.INTER_CUBIC if larger else cv2.INTER_AREA
    return np.asarray(cv2.resize(picture, size[::-1], interpolation=how), np.uint8)


def _npy(values: NDArray[np.float32]) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.ascontiguousarray(values, np.float32))
    return buffer.getvalue()
