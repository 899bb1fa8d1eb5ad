"""What a caller may give for pictures: names of files, or pictures in memory."""

from collections.abc import Iterator, Sequence
from os import PathLike
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from dino_cli.config.ranges import check_batches
from dino_cli.config.shared import Preprocessing
from dino_cli.data.loader import Batch
from dino_cli.data.preprocess import build_transform
from dino_cli.errors import UsageError

__all__ = ["Pictures", "batches_of", "many_of", "rgb_of"]

Pictures = str | PathLike[str] | Image.Image | NDArray[np.uint8]
"""A file, a folder, a .txt list, a PIL image, or RGB pixels, uint8 (H, W, 3)."""


def many_of(images: Pictures | Sequence[Pictures]) -> list[Pictures]:
    """One or several as a list. Raises `UsageError` for none, and for names mixed with pictures."""
    if isinstance(images, str | PathLike | Image.Image):
        return [images]
    if isinstance(images, np.ndarray) and images.ndim == 3:
        return [images]
    many = list(images)
    if not many:
        raise UsageError("no pictures given", "give some")
    named = sum(isinstance(one, str | PathLike) for one in many)
    if named not in (0, len(many)):
        raise UsageError(
            f"names of files and pictures in memory are mixed, {named} and {len(many) - named}",
            "give one kind at a time",
        )
    return many


def rgb_of(picture: Pictures) -> Image.Image:
    """A picture in memory. Raises `UsageError` for no pixels, and for an array that is not RGB."""
    pixels = np.asarray(picture)
    if 0 in pixels.shape[:2]:
        raise UsageError(f"a picture of shape {pixels.shape} has no pixels", "leave it out")
    if isinstance(picture, Image.Image):
        return picture.convert("RGB")
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3:
        raise UsageError(
            f"a picture is {pixels.dtype} {pixels.shape}", "give RGB pixels, uint8 (H, W, 3)"
        )
    return Image.fromarray(pixels)


def batches_of(pictures: Sequence[Pictures], p: Preprocessing, batch_size: int) -> Iterator[Batch]:
    """Pictures in memory as the network takes them; of so many in a row those of one size together.

    Raises `UsageError` as `rgb_of` does, for no size of batches, and for a picture that is too
    small or becomes too large.
    """
    check_batches(batch_size, 0, usual=32)
    transform = build_transform(p)
    for start in range(0, len(pictures), batch_size):
        sizes: dict[tuple[int, ...], list[tuple[int, NDArray[Any]]]] = {}
        for index, one in enumerate(pictures[start : start + batch_size], start):
            try:
                pixels = transform(rgb_of(one))
            except ValueError as error:
                raise UsageError(f"picture {index}: {error}", "leave it out") from None
            sizes.setdefault(pixels.shape, []).append((index, pixels))
        for same in sizes.values():
            stacked = np.stack([pixels for _, pixels in same]).transpose(0, 3, 1, 2)
            images = torch.from_numpy(np.ascontiguousarray(stacked))
            yield Batch(images, [index for index, _ in same])
