"""Read photos ahead in threads, and hand them on in groups of one size."""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from dino_cli.config.attention import AttentionConfig
from dino_cli.config.eval_segmentation import EvalSegmentationConfig
from dino_cli.config.pca import PcaConfig
from dino_cli.config.shared import Preprocessing
from dino_cli.core.masks.layout import PatchLayout
from dino_cli.data.decoding.decode import UnreadableImage
from dino_cli.data.decoding.own_depth import as_picture, read_input
from dino_cli.data.listing.image_list import ImageFile
from dino_cli.data.preprocess import build_transform
from dino_cli.errors import DinoError, TaskError, UsageError
from dino_cli.runtime import usable_threads
from dino_cli.store.pictures.figures import view_of
from dino_cli.tasks.model import Model
from dino_cli.tasks.photos.query import Query

__all__ = [
    "LoadedPhoto",
    "PhotoReader",
    "Unfit",
    "UnreadPhoto",
    "groups_of",
    "photo_reader",
    "stacked",
    "unread",
]

MOST_PATCHES = 65_536  # of one photo: a strip of 1 × 100 pixels must not exhaust the memory


@dataclass(frozen=True)
class LoadedPhoto:
    """A photo that was read. index: its position among the files. view: uint8 (H', W', 3) for
    pictures; pixels: uint8 (h·p, w·p, 3) for the network, or float32 of `own_depth`; asking: the
    number of the patch that a query names."""

    index: int
    view: NDArray[np.uint8]
    pixels: NDArray[Any]
    layout: PatchLayout
    asking: int | None = None


class Unfit(ValueError):
    """A picture that was read, but does not go with the options. error: says what would."""

    def __init__(self, error: DinoError) -> None:
        super().__init__(str(error))
        self.error = error


@dataclass(frozen=True)
class UnreadPhoto:
    """A file that gave no photo, or no video, and why. index: its position among the inputs; error:
    of one that does not go with the options."""

    index: int
    reason: str
    error: DinoError | None = None


@dataclass(frozen=True, kw_only=True)
class PhotoReader:
    """How a run reads its photos and frames, for a network with patches of `patch_size` pixels.

    preprocessing: without crop or trim; batch_size: photos together; threads: that read; query: the
    point that every photo must hold.
    """

    preprocessing: Preprocessing
    patch_size: int
    batch_size: int
    threads: int
    query: Query | None = None

    def photo(self, index: int, image: Image.Image | NDArray[Any]) -> LoadedPhoto:
        """What is needed of a picture that was read, in RGB or as samples in float32.

        Raises `Unfit` for one that becomes too large or does not hold the query's point,
        `ValueError` for one that is too small.
        """
        p = self.preprocessing
        if isinstance(image, np.ndarray) and image.dtype == np.uint8:
            image = Image.fromarray(image)
        photo = as_picture(image) if isinstance(image, np.ndarray) else np.asarray(image)
        height, width = (
            p.resize
            if isinstance(p.resize, tuple)
            else (side * (p.resize or 0) // min(photo.shape[:2]) for side in photo.shape[:2])
        )
        if (height // self.patch_size) * (width // self.patch_size) > MOST_PATCHES:
            raise Unfit(
                TaskError(
                    f"{width} x {height} pixels after resizing are too many",
                    "stretch it with --image-size 480x480, height x width, or cut it up",
                )
            )
        resized = build_transform(p)(image)
        layout = PatchLayout(
            (photo.shape[0], photo.shape[1]), (resized.shape[0], resized.shape[1]), self.patch_size
        )
        rows, columns = layout.trimmed
        asking = _asking(self.query, layout) if self.query is not None else None
        return LoadedPhoto(index, view_of(photo), resized[:rows, :columns], layout, asking)

    def groups(
        self, pool: ThreadPoolExecutor, files: Sequence[ImageFile]
    ) -> Iterator[list[LoadedPhoto] | UnreadPhoto]:
        """Groups of at most `batch_size` photos whose pixels have one shape, and the files that
        fail.

        At most two files for each thread are being read at a time, and at most two batches of
        photos wait for others of their shape, so that memory does not grow with the files.
        """
        yield from groups_of(self._read_ahead(pool, files), self.batch_size)

    def _read_ahead(
        self, pool: ThreadPoolExecutor, files: Sequence[ImageFile]
    ) -> Iterator[LoadedPhoto | UnreadPhoto]:
        reading: deque[Future[LoadedPhoto | UnreadPhoto]] = deque()
        for index, file in enumerate(files):
            reading.append(pool.submit(self._read, index, file))
            if len(reading) >= 2 * self.threads:
                yield reading.popleft().result()
        while reading:
            yield reading.popleft().result()

    def _read(self, index: int, file: ImageFile) -> LoadedPhoto | UnreadPhoto:
        try:
            return self.photo(index, read_input(file.path, self.preprocessing))
        except (UnreadableImage, ValueError, MemoryError) as error:
            return unread(index, error)


def photo_reader(
    model: Model,
    config: AttentionConfig | PcaConfig | EvalSegmentationConfig,
    query: Query | None = None,
) -> PhotoReader:
    """For whole photos as the options say. Raises `UsageError` for less than one patch."""
    return PhotoReader(
        preprocessing=model.whole_photo(config.image_size or None, exif=config.exif),
        patch_size=model.backbone.patch_size,
        batch_size=config.batch_size,
        threads=usable_threads(config.workers),
        query=query,
    )


def unread(index: int, error: UnreadableImage | ValueError | MemoryError) -> UnreadPhoto:
    """What is told of a photo, or a video, that failed so."""
    if isinstance(error, Unfit):
        return UnreadPhoto(index, str(error), error.error)
    return UnreadPhoto(index, str(error) or "not enough memory for it")


def stacked(photos: Sequence[LoadedPhoto]) -> Tensor:
    """The pixels of photos of one shape, for the network: (B, 3, H, W), uint8 or float32."""
    pixels = torch.from_numpy(np.stack([photo.pixels for photo in photos]))
    return pixels.permute(0, 3, 1, 2).contiguous()


def groups_of(
    photos: Iterable[LoadedPhoto | UnreadPhoto], size: int
) -> Iterator[list[LoadedPhoto] | UnreadPhoto]:
    """Photos whose pixels have one shape together, at most `size`; 2 `size` wait at most."""
    waiting: dict[tuple[int, ...], list[LoadedPhoto]] = {}
    for photo in photos:
        if isinstance(photo, UnreadPhoto):
            yield photo
            continue
        shape = photo.pixels.shape
        waiting.setdefault(shape, []).append(photo)
        if len(waiting[shape]) == size:
            yield waiting.pop(shape)
        elif sum(map(len, waiting.values())) >= 2 * size:
            yield waiting.pop(max(waiting, key=lambda key: len(waiting[key])))
    yield from waiting.values()


def _asking(query: Query, layout: PatchLayout) -> int:
    try:
        return query.patch(layout)
    except ValueError as error:
        raise Unfit(UsageError(str(error), "use --query 50%,50%, or a point inside")) from None
