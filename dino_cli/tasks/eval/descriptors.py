"""Pictures through the network for retrieval: one descriptor each, batch after batch."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from dino_cli.config.shared import ComputeOptions, Preprocessing
from dino_cli.data.listing.image_list import ImageFile
from dino_cli.data.loader import image_batches
from dino_cli.data.preprocess import normalize
from dino_cli.progress import Reporter
from dino_cli.tasks.model import Model
from dino_cli.tasks.unreadable import cannot_read

__all__ = ["DescriptorBatch", "described", "described_all"]

Encode = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class DescriptorBatch:
    """One batch of B readable files: descriptors, float32 (B, D) on the CPU; their positions among
    all files; (position, reason) of the unreadable ones."""

    descriptors: Tensor
    indices: list[int]
    failures: list[tuple[int, str]]


def described(
    files: Sequence[ImageFile],
    encode: Encode,
    model: Model,
    p: Preprocessing,
    compute: ComputeOptions,
    reporter: Reporter,
    *,
    stage: str,
    transform: Callable[[Image.Image], NDArray[np.uint8]] | None = None,
) -> Iterator[DescriptorBatch]:
    """Descriptors of the readable files, in order. Memory does not grow with their number.

    encode: normalised images (B, C, H, W) → (B, D), on the model's device. transform: instead of
    the resize and crop of `p`. Raises `TaskError` for descriptors that are not finite and for a
    batch that does not fit the device's memory.
    """
    batches = image_batches(
        files, p, batch_size=compute.batch_size, workers=compute.workers, transform=transform
    )
    reporter.stage(stage, len(files))
    for batch in batches:
        descriptors = torch.empty(0, 0)
        if batch.indices:
            with model.forward(batch.images):
                x = normalize(batch.images, p, model.device)
                descriptors = encode(x).float().cpu()
            model.check_finite(descriptors)
        yield DescriptorBatch(descriptors, batch.indices, batch.failures)
        reporter.advance(len(batch.indices) + len(batch.failures))
    reporter.finish()


def described_all(files: Sequence[ImageFile], batches: Iterator[DescriptorBatch]) -> Tensor:
    """The descriptors of all files, (N, D). Raises `TaskError` for the first unreadable one."""
    found = []
    for batch in batches:
        if batch.failures:
            position, reason = batch.failures[0]
            path = files[position].path.as_posix()
            raise cannot_read(path, reason, "repair it: it is part of what is measured")
        found.append(batch.descriptors)
    return torch.cat(found)
