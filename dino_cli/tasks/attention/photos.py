"""Read photos ahead in threads, and hand them on in groups of one size."""

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dino_cli.config.shared import Preprocessing
from dino_cli.core.layout import PatchLayout
from dino_cli.data.decode import UnreadableImage, read_image
from dino_cli.data.images import ImageFile
from dino_cli.data.preprocess import build_transform
from dino_cli.store.figures import view_of

__all__ = ["Photo", "Unread", "photo_groups"]

MOST_PATCHES = 65_536  # of one photo: a strip of 1 × 100 pixels must not exhaust the memory


@dataclass(frozen=True)
class Photo:
    """A photo that was read. index: its position among the files. view: uint8 (H', W', 3) for
    pictures; pixels: uint8 (h·p, w·p, 3) for the network."""

    index: int
    view: NDArray[np.uint8]
    pixels: NDArray[np.uint8]
    layout: PatchLayout


@dataclass(frozen=True)
class Unread:
    """A file that gave no photo, and why."""

    index: int
    reason: str


def photo_groups(
    pool: ThreadPoolExecutor,
    files: Sequence[ImageFile],
    p: Preprocessing,
    patch: int,
    *,
    size: int,
    ahead: int,
) -> Iterator[list[Photo] | Unread]:
    """Groups of at most `size` photos whose pixels have one shape, and the files that fail.

    p: without crop or trim. At most `ahead` files are being read at a time, and at most 2 `size`
    photos wait for others of their shape, so that memory does not grow with the files.
    """
    waiting: dict[tuple[int, ...], list[Photo]] = {}
    for photo in _read_ahead(pool, files, p, patch, ahead):
        if isinstance(photo, Unread):
            yield photo
            continue
        shape = photo.pixels.shape
        waiting.setdefault(shape, []).append(photo)
        if len(waiting[shape]) == size:
            yield waiting.pop(shape)
        elif sum(map(len, waiting.values())) >= 2 * size:
            yield waiting.pop(max(waiting, key=lambda key: len(waiting[key])))
    yield from waiting.values()


def _read_ahead(
    pool: ThreadPoolExecutor, files: Sequence[ImageFile], p: Preprocessing, patch: int, ahead: int
) -> Iterator[Photo | Unread]:
    reading: deque[Future[Photo | Unread]] = deque()
    for index, file in enumerate(files):
        reading.append(pool.submit(_read, index, file, p, patch))
        if len(reading) >= ahead:
            yield reading.popleft().result()
    while reading:
        yield reading.popleft().result()


def _read(index: int, file: ImageFile, p: Preprocessing, patch: int) -> Photo | Unread:
    try:
        image = read_image(file.path, exif=p.exif)
        height, width = (
            p.resize
            if isinstance(p.resize, tuple)
            else (side * (p.resize or 0) // min(image.size) for side in image.size[::-1])
        )
        if (height // patch) * (width // patch) > MOST_PATCHES:
            return Unread(index, f"{width} x {height} pixels after resizing are too many")
        resized = build_transform(p)(image)
    except UnreadableImage as error:
        return Unread(index, error.reason)
    except (ValueError, MemoryError) as error:
        return Unread(index, str(error) or "not enough memory for it")
    photo = np.asarray(image)
    layout = PatchLayout(
        (photo.shape[0], photo.shape[1]), (resized.shape[0], resized.shape[1]), patch
    )
    rows, columns = layout.trimmed
    return Photo(index, view_of(photo), resized[:rows, :columns], layout)
