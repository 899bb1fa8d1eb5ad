"""Training images of the linear classifier: one random crop of each, flipped or not.

The draw of an image comes from (seed, epoch, image), as those of the self-supervised views.
"""

from collections.abc import Iterator, Sequence
from contextlib import closing

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch.utils.data import Dataset

from dino_cli.data.decoding.decode import UnreadableImage, read_image
from dino_cli.data.listing.image_list import ImageFile
from dino_cli.data.loader import Batch, collate
from dino_cli.data.views.draws import ViewDraw, ViewSpec, draw_view, epoch_order, uniforms
from dino_cli.data.workers import load, workers_for

__all__ = ["augmented_batches", "render_crop"]


def crop_spec(size: int | tuple[int, int]) -> ViewSpec:
    """torchvision's RandomResizedCrop with its defaults, and a flip: no change of colours."""
    return ViewSpec(
        size=size,
        scale=(0.08, 1.0),
        jitter=(0.0, 0.0, 0.0, 0.0),
        jitter_prob=0.0,
        grayscale_prob=0.0,
        blur_prob=0.0,
        solarize_prob=0.0,
    )


def render_crop(image: Image.Image, draw: ViewDraw) -> NDArray[np.uint8]:
    """Crop, resize bilinearly (the self-supervised views are bicubic), flip: (s, s, 3)."""
    box = (draw.left, draw.top, draw.left + draw.width, draw.top + draw.height)
    view = image.crop(box).resize(draw.shape[::-1], Image.Resampling.BILINEAR)
    if draw.flip:
        view = view.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return np.asarray(view)


class _Crops(Dataset[tuple[int, "NDArray[np.uint8] | str"]]):
    def __init__(
        self,
        files: Sequence[ImageFile],
        size: int | tuple[int, int],
        seed: int,
        epoch: int,
        exif: bool,
    ) -> None:
        self.files, self.spec = files, crop_spec(size)
        self.seed, self.epoch, self.exif = seed, epoch, exif

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[int, NDArray[np.uint8] | str]:
        try:
            image = read_image(self.files[index].path, exif=self.exif)
        except UnreadableImage as error:
            return index, error.reason
        u = uniforms(self.seed, self.epoch, index, 1)[0]
        return index, render_crop(image, draw_view(self.spec, u, image.height, image.width))


def augmented_batches(
    files: Sequence[ImageFile],
    *,
    size: int | tuple[int, int],
    batch_size: int,
    seed: int,
    epoch: int,
    workers: int,
    exif: bool = True,
) -> Iterator[Batch]:
    """The batches of one epoch in its order; the last one may be smaller.

    Unreadable files are missing from their batch and named in `failures`.
    """
    order = epoch_order(len(files), seed, epoch).tolist()
    batches = [order[i : i + batch_size] for i in range(0, len(order), batch_size)]
    loading = load(
        _Crops(files, size, seed, epoch, exif),
        workers=workers_for(len(batches), workers),
        batch_sampler=batches,
        collate_fn=collate,
    )
    with closing(loading):
        for found in loading:
            yield from found  # one: its crops are of one size
