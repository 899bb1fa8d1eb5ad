"""What a worker sends when the views are made on the device: photos as bytes, and what to do.

Everything is in three flat tensors, so that a batch is pinned once and copied once. The stages of
all views are sorted here into lists of rows, because the device must not be asked which view
needs which.
"""

from collections.abc import Sequence
from itertools import groupby
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dino_cli.data.views.draws import ViewDraw
from dino_cli.data.views.render import hue_shift, resample

__all__ = ["PackedPhoto", "PhotoBatch", "Stage", "pack_photos", "take_photo"]

# A photo is sent whole when it has at most so many times the pixels of its views. A larger one
# would cost more to send than to resample where it was decoded, so its crops are sent.
MOST_PIXELS = 4
SIDE_STEP = 128  # photos are padded to multiples of it, and multiplied together with their likes
JITTER = ("brightness", "contrast", "saturation", "hue")


class PackedPhoto(NamedTuple):
    """One photo. groups: the draws of each resolution. whole: the photo, (H, W, 3), or None and
    crops: per resolution uint8 (V_i, h, w, 3), resampled and not yet flipped."""

    groups: list[list[ViewDraw]]
    whole: NDArray[np.uint8] | None
    crops: list[NDArray[np.uint8]]


class Stage(NamedTuple):
    """Rows and values `start` to `stop` of a batch go through one stage in group `group`."""

    group: int
    name: str
    start: int
    stop: int


class PhotoBatch(NamedTuple):
    """B photos and the draws of their views, in G resolutions of V_i views of h_i × w_i pixels.

    pixels: uint8, flat: per block of photos (n, H, W, 3), then per resolution the ready crops
    (m, V_i, h_i, w_i, 3). rows: int64, flat: the positions in the batch of the photos of each
    block and of those with ready crops, then the rows of the stages, which count views, view-major.
    values: float32, flat: per resolution boxes (V_i, B, 5) of left, top, width, height, flip; then
    one value per row of the stages. sizes: (V_i, (h_i, w_i)). blocks: (n, H, W). ready: m.
    unreadable: as of `data.views.batches.ViewBatch`.
    """

    pixels: Tensor
    rows: Tensor
    values: Tensor
    sizes: list[tuple[int, tuple[int, int]]]
    blocks: list[tuple[int, int, int]]
    ready: int
    stages: list[Stage]
    unreadable: list[tuple[str, str]]

    @property
    def empty(self) -> bool:
        """Whether no file could be read."""
        return not self.sizes


def take_photo(pixels: NDArray[np.uint8], groups: Sequence[Sequence[ViewDraw]]) -> PackedPhoto:
    """One decoded photo (H, W, 3) and its draws, as it will be sent."""
    draws = [list(group) for group in groups]
    views = sum(draw.shape[0] * draw.shape[1] for group in draws for draw in group)
    if pixels.shape[0] * pixels.shape[1] <= MOST_PIXELS * views:
        return PackedPhoto(draws, pixels, [])
    crops = [np.stack([resample(pixels, draw) for draw in group]) for group in draws]
    return PackedPhoto(draws, None, crops)


def pack_photos(
    photos: Sequence[PackedPhoto | None], unreadable: list[tuple[str, str]]
) -> PhotoBatch:
    """One batch. None stands for a photo that could not be read: then the batch is empty."""
    here = [photo for photo in photos if photo is not None]
    if len(here) < len(photos):
        nothing = torch.empty(0)
        return PhotoBatch(nothing, nothing, nothing, [], [], 0, [], unreadable)
    order = sorted(range(len(here)), key=lambda i: (_padded(here[i]), i))
    pixels, rows, blocks = [], [], []
    for (height, width), block in groupby(order, key=lambda i: _padded(here[i])):
        members = list(block)
        rows += members
        if height:
            blocks.append((len(members), height, width))
            pixels += [_filled(here[i].whole, height, width) for i in members]
    # Those with ready crops were sorted to the front, as of no size: they go to the end.
    ready = [i for i in rows if here[i].whole is None]
    rows = rows[len(ready) :] + ready
    sizes = [(len(group), group[0].shape) for group in here[0].groups]
    pixels += [here[i].crops[g].reshape(-1) for g in range(len(sizes)) for i in ready]
    values = [_boxes([photo.groups[g] for photo in here]) for g in range(len(sizes))]
    stages: list[Stage] = []
    for g in range(len(sizes)):
        draws = [photo.groups[g][v] for v in range(sizes[g][0]) for photo in here]
        for name, members, numbers in _stages(draws):
            stages.append(Stage(g, name, len(rows), len(rows) + len(members)))
            rows += members
            values.append(np.array(numbers, np.float32))
    return PhotoBatch(
        torch.from_numpy(np.concatenate(pixels)),
        torch.tensor(rows, dtype=torch.int64),
        torch.from_numpy(np.concatenate(values)),
        sizes,
        blocks,
        len(ready),
        stages,
        unreadable,
    )


def _padded(photo: PackedPhoto) -> tuple[int, int]:
    if photo.whole is None:
        return 0, 0
    height, width = (-(-side // SIDE_STEP) * SIDE_STEP for side in photo.whole.shape[:2])
    return height, width


def _filled(photo: NDArray[np.uint8] | None, height: int, width: int) -> NDArray[np.uint8]:
    assert photo is not None
    padded = np.zeros((height, width, 3), np.uint8)
    padded[: photo.shape[0], : photo.shape[1]] = photo
    return padded.reshape(-1)


def _boxes(groups: Sequence[Sequence[ViewDraw]]) -> NDArray[np.float32]:
    boxes = [[(d.left, d.top, d.width, d.height, d.flip) for d in draws] for draws in groups]
    return np.array(boxes, np.float32).transpose(1, 0, 2).reshape(-1)


def _stages(draws: Sequence[ViewDraw]) -> list[tuple[str, list[int], list[float]]]:
    """(name, rows, value of each), in an order in which every view gets its own in its order."""
    found: list[tuple[str, list[int], list[float]]] = []
    for place in range(len(JITTER)):
        for name in JITTER:
            rows = [
                i
                for i, draw in enumerate(draws)
                if len(draw.jitter) > place and draw.jitter[place][0] == name
            ]
            factors = [draws[i].jitter[place][1] for i in rows]
            if name == "hue":
                factors = [float(hue_shift(factor)) for factor in factors]
            found.append((name, rows, factors))
    for name, column in (
        ("grey", [float(draw.grayscale) for draw in draws]),
        ("blur", [draw.sigma for draw in draws]),
        ("solarize", [float(draw.solarize) for draw in draws]),
    ):
        rows = [i for i, value in enumerate(column) if value > 0]
        found.append((name, rows, [column[i] for i in rows]))
    return [stage for stage in found if stage[1]]
