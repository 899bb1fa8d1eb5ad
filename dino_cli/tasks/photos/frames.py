"""The frames of a video: read one batch ahead, and a few of them kept for a page."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path, PurePath
from typing import Any, Generic, TypeVar

from dino_cli.data.decoding.decode import UnreadableImage
from dino_cli.data.decoding.video import PictureFrames, VideoFrames, open_pictures, open_video
from dino_cli.data.listing.image_list import ImageFile
from dino_cli.progress import Reporter
from dino_cli.tasks.photos.reading import LoadedPhoto, PhotoReader
from dino_cli.tasks.unreadable import cannot_read

__all__ = ["EvenFrames", "Frames", "Videos", "check_frames", "find_videos", "read_batches"]

Frames = VideoFrames | PictureFrames
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Videos:
    """files: the videos. folders: of those that are folders of pictures, the pictures."""

    files: Sequence[ImageFile]
    folders: Mapping[Path, Sequence[ImageFile]]
    fps: float | None
    exif: bool

    def open(self, file: ImageFile) -> Frames:
        """The frames of one of `files`. Raises `UnreadableImage`, `ValueError`."""
        if file.path in self.folders:
            assert self.fps is not None
            return open_pictures(file.path, self.folders[file.path], self.fps, exif=self.exif)
        return open_video(file.path, self.fps)


def find_videos(
    pictures: Sequence[ImageFile], videos: Sequence[ImageFile], fps: float | None, *, exif: bool
) -> tuple[Sequence[ImageFile], Videos]:
    """The pictures that are looked at one by one, and the videos.

    With `fps` the pictures that lie in one folder are the frames of one video: in the order of
    their numbers where they come sorted by name, else as they were listed.
    """
    if fps is None:
        return pictures, Videos(files=videos, folders={}, fps=None, exif=exif)
    folders: dict[Path, list[ImageFile]] = {}
    for file in pictures:
        folders.setdefault(file.path.parent, []).append(file)
    files = list(videos)
    for folder, inside in folders.items():
        below = inside[0].relative.parent
        name = below if below.parts else PurePath(folder.resolve().name or "frames")
        files.append(ImageFile(folder, "", name))
        if inside == sorted(inside, key=lambda file: file.path.name):
            inside.sort(key=_by_number)
    return [], Videos(files=files, folders=folders, fps=fps, exif=exif)


def _by_number(file: ImageFile) -> list[tuple[str, int]]:
    """f2.png before f10.png, as `ffmpeg` counts the frames that it writes."""
    parts = re.split("([0-9]+)", file.path.name)
    return list(zip(parts[::2], [*map(int, parts[1::2]), 0], strict=True))


@contextmanager
def read_batches(
    reader: PhotoReader, frames: Iterable[Any], pool: ThreadPoolExecutor
) -> Iterator[Iterator[list[LoadedPhoto]]]:
    """Yield the batches of frames, each read while the one before it is looked at.

    At the end nothing is being read any more, so that the video can be closed. Raises as
    `PhotoReader.photo`.
    """
    source = iter(frames)

    def read() -> list[LoadedPhoto]:
        return list(pool.map(partial(reader.photo, 0), islice(source, reader.batch_size)))

    with ThreadPoolExecutor(1) as lane:
        yield _ahead(lane, read)


def _ahead(lane: ThreadPoolExecutor, read: Any) -> Iterator[list[LoadedPhoto]]:
    reading: Future[list[LoadedPhoto]] = lane.submit(read)
    while batch := reading.result():
        reading = lane.submit(read)
        yield batch


def check_frames(
    frames: Frames, count: int, reporter: Reporter, *, strict: bool, whole: bool = True
) -> list[tuple[str, str]]:
    """Paths and reasons of the pictures of a folder that gave no frame. A remark where a video has
    fewer than it says. count: frames that were read; whole: none was left for later.

    Raises `UnreadableImage` when there was none, `TaskError` for the first unread one if `strict`.
    """
    if not count:
        raise UnreadableImage("no frame in it could be read")
    unread = [(str(path), reason) for path, reason in getattr(frames, "unread", [])]
    if unread and strict:
        raise cannot_read(*unread[0])
    if whole and count < 0.95 * frames.count:
        reporter.remark(
            f"{str(frames.path)!r} says it has {frames.count} frames, but only {count} could"
            " be read"
        )
    return unread


class EvenFrames(Generic[T]):
    """What is kept of a few frames of a video of unknown length, evenly apart; most: how many."""

    def __init__(self, most: int, fps: float) -> None:
        self.most, self.fps, self.apart = most, fps, 1
        self.kept: dict[int, T] = {}

    def wants(self, frame: int) -> bool:
        return self.most > 0 and frame % self.apart == 0

    def add(self, frame: int, one: T) -> None:
        if self.wants(frame):  # they may have moved apart since it was asked
            self.kept[frame] = one
        while len(self.kept) > self.most:
            self.apart *= 2
            self.kept = {n: kept for n, kept in self.kept.items() if n % self.apart == 0}

    def views(self) -> list[tuple[str, T]]:
        """Each with its time in the video as a caption."""
        return [(f"{frame / self.fps:.1f} s", one) for frame, one in self.kept.items()]
