"""Batches of decoded pictures, in order, decoded by other processes while the caller computes."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from dino_cli.config.ranges import check_batches
from dino_cli.config.shared import Preprocessing
from dino_cli.data.decoding.decode import UnreadableImage, read_image
from dino_cli.data.decoding.jpeg_draft import read_fitting
from dino_cli.data.listing.image_list import ImageFile, ImageList
from dino_cli.data.preprocess import build_transform
from dino_cli.data.workers import load, workers_for
from dino_cli.errors import TaskError

__all__ = ["Batch", "collate", "image_batches"]


@dataclass(frozen=True, slots=True)
class Batch:
    """Pictures of one size, and what went wrong on the way.

    images: uint8 (B, 3, H, W), or float32 (B, C, H, W) of `own_depth`; (0, 3, 0, 0) when every file
    of the batch failed. indices: their B positions in the list of files. failures: (position,
    reason) of the unreadable ones.
    """

    images: Tensor
    indices: list[int]
    failures: list[tuple[int, str]] = field(default_factory=list)


def image_batches(
    files: Sequence[ImageFile],
    p: Preprocessing,
    *,
    batch_size: int,
    workers: int,
    transform: Callable[[Image.Image], NDArray[np.uint8]] | None = None,
) -> Iterator[Batch]:
    """Read and preprocess the files; batches come in the order of the files.

    Where preprocessing leaves pictures of different sizes, a batch ends where the size changes.
    `workers` processes decode ahead (at most one per core, none for a handful of files). transform:
    from an RGB picture to uint8 (H, W, 3), picklable, instead of what `p` says. Raises `UsageError`
    for impossible numbers, `TaskError` when a process was killed.
    """
    check_batches(batch_size, workers, usual=32)
    read = partial(read_fitting, p=p) if transform is None else partial(read_image, exif=p.exif)
    data = _Files(files, read, transform or build_transform(p))
    return _batches(data, batch_size, workers)


def _batches(data: "_Files", batch_size: int, workers: int) -> Iterator[Batch]:
    workers = workers_for(-(-len(data) // batch_size), workers)
    loading = load(data, workers=workers, batch_size=batch_size, collate_fn=collate)
    with closing(loading):
        while True:
            try:
                batches = next(loading)
            except StopIteration:
                return
            except RuntimeError as error:
                if "DataLoader worker" not in str(error):
                    raise
                raise TaskError(
                    "a process that decodes pictures was killed, as happens when memory is short",
                    f"use fewer --workers than {workers} (0: none), or a smaller --batch-size",
                ) from None
            yield from batches


class _Files(Dataset[tuple[int, "NDArray[np.uint8] | str"]]):
    """Position and pixels (H, W, 3) of each file, or the reason why there are none."""

    def __init__(
        self,
        files: Sequence[ImageFile],
        read: Callable[[Path], Any],
        transform: Callable[[Any], NDArray[Any]],
    ) -> None:
        # No Python strings, which workers would each copy.
        self.files, self.read, self.transform = ImageList.of(files), read, transform

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[int, NDArray[np.uint8] | str]:
        try:
            return index, self.transform(self.read(self.files.path(index)))
        except UnreadableImage as error:
            return index, error.reason
        except (ValueError, MemoryError) as error:
            return index, str(error) or "not enough memory for it"


def collate(samples: Sequence[tuple[int, NDArray[np.uint8] | str]]) -> list[Batch]:
    """Batches of positions and pixels (H, W, C), or reasons; a new one where the size changes."""
    failures = [(i, sample) for i, sample in samples if isinstance(sample, str)]
    read = [(i, sample) for i, sample in samples if not isinstance(sample, str)]
    batches = []
    for _, group in groupby(read, key=lambda pair: pair[1].shape):
        indices, pixels = zip(*group, strict=True)
        stacked = np.ascontiguousarray(np.stack(pixels).transpose(0, 3, 1, 2))
        batches.append(Batch(torch.from_numpy(stacked), list(indices), failures))
        failures = []
    if failures:
        batches.append(Batch(torch.empty((0, 3, 0, 0), dtype=torch.uint8), [], failures))
    return batches
