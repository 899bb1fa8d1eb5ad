"""Read photos ahead in threads, and hand them on in groups of one size."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dino_cli.config.shared import Preprocessing
from dino_cli.core.masks.layout import PatchLayout
from dino_cli.data.decoding.decode import UnreadableImage
from dino_cli.data.decoding.own_depth import as_picture, read_input
from dino_cli.data.listing.images import ImageFile
from dino_cli.data.preprocess import build_transform
from dino_cli.errors import DinoError, TaskError, UsageError
from dino_cli.store.pictures.figures import view_of
from dino_cli.tasks.attention.query import Query

__all__ = ["LoadedPhoto", "Unfit", "UnreadPhoto", "groups_of", "photo_groups", "photo_of"]

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
    """A file that gave no photo, and why. error: of a picture that does not go with the options."""

    index: int
    reason: str
    error: DinoError | None = None


def photo_groups(
    pool: ThreadPoolExecutor,
    files: Sequence[ImageFile],
    p: Preprocessing,
    patch: int,
    *,
    size: int,
    ahead: int,
    query: Query | None = None,
) -> Iterator[list[LoadedPhoto] | UnreadPhoto]:
    """Groups of at most `size` photos whose pixels have one shape, and the files that fail.

    p: without crop or trim. At most `ahead` files are being read at a time, and at most 2 `size`
    photos wait for others of their shape, so that memory does not grow with the files.
    """
    read = partial(_read, p=p, patch=patch, query=query)
    yield from groups_of(_read_ahead(pool, files, read, ahead), size)


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


def photo_of(
    index: int,
    image: Image.Image | NDArray[Any],
    p: Preprocessing,
    patch: int,
    query: Query | None,
) -> LoadedPhoto:
    """What is needed of a picture that was read, in RGB or as samples in float32.

    Raises `Unfit` for one that becomes too large or does not hold the query's point, `ValueError`
    for one that is too small.
    """
    if isinstance(image, np.ndarray) and image.dtype == np.uint8:
        image = Image.fromarray(image)
    photo = as_picture(image) if isinstance(image, np.ndarray) else np.asarray(image)
    height, width = (
        p.resize
        if isinstance(p.resize, tuple)
        else (side * (p.resize or 0) // min(photo.shape[:2]) for side in photo.shape[:2])
    )
    if (height // patch) * (width // patch) > MOST_PATCHES:
        raise Unfit(
            TaskError(
                f"{width} x {height} pixels after resizing are too many",
                "stretch it with --image-size 480x480, height x width, or cut it up",
            )
        )
    resized = build_transform(p)(image)
    layout = PatchLayout(
        (photo.shape[0], photo.shape[1]), (resized.shape[0], resized.shape[1]), patch
    )
    rows, columns = layout.trimmed
    asking = _asking(query, layout) if query is not None else None
    return LoadedPhoto(index, view_of(photo), resized[:rows, :columns], layout, asking)


def _asking(query: Query, layout: PatchLayout) -> int:
    try:
        return query.patch(layout)
    except ValueError as error:
        raise Unfit(UsageError(str(error), "use --query 50%,50%, or a point inside")) from None


def _read_ahead(
    pool: ThreadPoolExecutor,
    files: Sequence[ImageFile],
    read: Callable[[int, ImageFile], LoadedPhoto | UnreadPhoto],
    ahead: int,
) -> Iterator[LoadedPhoto | UnreadPhoto]:
    reading: deque[Future[LoadedPhoto | UnreadPhoto]] = deque()
    for index, file in enumerate(files):
        reading.append(pool.submit(read, index, file))
        if len(reading) >= ahead:
            yield reading.popleft().result()
    while reading:
        yield reading.popleft().result()


def _read(
    index: int, file: ImageFile, *, p: Preprocessing, patch: int, query: Query | None
) -> LoadedPhoto | UnreadPhoto:
    try:
        return photo_of(index, read_input(file.path, p), p, patch, query)
    except UnreadableImage as error:
        return UnreadPhoto(index, error.reason)
    except Unfit as error:
        return UnreadPhoto(index, str(error), error.error)
    except (ValueError, MemoryError) as error:
        return UnreadPhoto(index, str(error) or "not enough memory for it")
