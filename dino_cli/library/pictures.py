"""What a caller may give for pictures: names of files, or pictures in memory."""

from collections.abc import Iterator, Sequence
from itertools import groupby
from os import PathLike

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from dino_cli.config.shared import Preprocessing
from dino_cli.data.loader import Batch
from dino_cli.data.preprocess import build_transform
from dino_cli.errors import UsageError

__all__ = ["Pictures", "batches_of", "many_of", "rgb_of"]

Pictures = str | PathLike[str] | Image.Image | NDArray[np.uint8]
"""A file, a folder, a .txt list, a PIL image, or RGB pixels, uint8 (H, W, 3)."""


def many_of(images: Pictures | Sequence[Pictures]) -> list[Pictures]:
    """One or several as a list. Raises `UsageError` for names mixed with pictures."""
    if isinstance(images, str | PathLike | Image.Image):
        return [images]
    if isinstance(images, np.ndarray):
        return [images] if images.ndim == 3 else list(images)
    many = list(images)
    named = sum(isinstance(one, str | PathLike) for one in many)
    if named not in (0, len(many)):
        raise UsageError("files and pictures in memory are mixed", "give one kind at a time")
    return many


def rgb_of(picture: Pictures) -> Image.Image:
    """A picture in memory. Raises `UsageError` for an array that is no RGB pixels."""
    if isinstance(picture, Image.Image):
        return picture.convert("RGB")
    pixels = np.asarray(picture)
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3:
        raise UsageError(
            f"a picture is {pixels.dtype} {pixels.shape}", "give RGB pixels, uint8 (H, W, 3)"
        )
    return Image.fromarray(pixels)


def batches_of(pictures: Sequence[Pictures], p: Preprocessing, batch_size: int) -> Iterator[Batch]:
    """Pictures in memory as the network takes them; a batch ends where their size changes."""
    transform = build_transform(p)
    for start in range(0, len(pictures), batch_size):
        ready = [transform(rgb_of(one)) for one in pictures[start : start + batch_size]]
        numbered = enumerate(ready, start)
        for _, group in groupby(numbered, key=lambda pair: pair[1].shape):
            indices, pixels = zip(*group, strict=True)
            stacked = np.ascontiguousarray(np.stack(pixels).transpose(0, 3, 1, 2))
            yield Batch(torch.from_numpy(stacked), list(indices))
