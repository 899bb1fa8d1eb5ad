"""Which pictures and videos; and which pictures, where videos stand for all their frames."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path, PurePath
from typing import NamedTuple

from dino_cli.config.frame_names import frame_name
from dino_cli.config.ranges import check_fps
from dino_cli.data.decoding.decode import UnreadableImage
from dino_cli.data.decoding.video import open_video
from dino_cli.data.decoding.video_frames import VIDEO_SUFFIXES, is_video_name, numbers_of_frames
from dino_cli.data.listing.folder_index import pictures_below
from dino_cli.data.listing.image_list import ImageFile, ImageList, ImageListBuilder
from dino_cli.data.listing.images import find_images
from dino_cli.data.listing.names import Names
from dino_cli.progress import Reporter

__all__ = ["MediaList", "find_frames", "find_media"]


class MediaList(NamedTuple):
    """Pictures and frames; rates: frames per second of each video that has some, by its path."""

    files: ImageList
    rates: dict[str, float]


def find_media(
    arguments: Sequence[str],
    reporter: Reporter | None = None,
    *,
    null: bool = False,
    offline: bool = False,
) -> tuple[list[ImageFile], list[ImageFile]]:
    """The pictures and the videos that the arguments name: `find_images`, and videos beside them.

    A folder is searched for both, a list may name both; hidden names are passed over. A video in a
    folder is of no class: its frames may show anything. Raises as `find_images` does; a folder of
    videos alone is fine.
    """
    below, others = _videos_in_folders(arguments)
    videos = [replace(video, label="") for video in below]
    files: Sequence[ImageFile] = []
    if others:
        files = find_images(others, reporter=reporter, null=null, offline=offline)
    videos += [file for file in files if is_video_name(file.path.name)]
    once = {os.path.abspath(file.path): file for file in reversed(videos)}
    pictures = [file for file in files if not is_video_name(file.path.name)]
    return pictures, list(reversed(once.values()))


def find_frames(
    arguments: Sequence[str],
    fps: float | None,
    reporter: Reporter,
    *,
    null: bool,
    offline: bool,
) -> MediaList:
    """As `find_images`, and every video, named or in a folder, as its frames after the pictures.

    fps: at most so many frames of each second. The label of a frame is its video's: the first
    folder below the argument. A video that cannot be opened is listed with its first frame, so that
    it is reported when that is read. Raises as `find_images`, and `UsageError` for an impossible
    number.
    """
    check_fps(fps)
    videos, others = _videos_in_folders(arguments)
    files = ImageList.of([])
    if others:
        files = find_images(others, reporter=reporter, null=null, offline=offline)
    if any(not os.path.isdir(argument) for argument in others):
        named = [i for i, name in enumerate(files.relatives()) if is_video_name(name)]
        if named:
            videos += [files[i] for i in named]
            gone = set(named)
            builder = ImageListBuilder()
            builder.add(file for i, file in enumerate(files) if i not in gone)
            files = builder.build()
    if not videos:
        return MediaList(files, {})
    return _with_frames(files, videos, fps, reporter)


def _with_frames(
    files: Sequence[ImageFile],
    videos: Sequence[ImageFile],
    fps: float | None,
    reporter: Reporter,
) -> MediaList:
    builder, rates = ImageListBuilder(), {}
    builder.add(files)
    seen: set[str] = set()
    for video in reporter.track(videos, "opening videos", len(videos), "videos"):
        path = str(video.path)
        if os.path.abspath(path) in seen:
            continue
        seen.add(os.path.abspath(path))
        numbers: Sequence[int] = [0]
        try:
            frames = open_video(Path(path))
            numbers = numbers_of_frames(
                frames.count, frames.own_fps, fps, frames.path, frames.capture
            )
            frames.close()
            rates[path] = frames.own_fps
        except UnreadableImage:
            pass  # told when its frame is read
        folder, name = os.path.split(path)
        names = Names.pack(frame_name(name, number) for number in numbers)
        builder.add_folder(folder or ".", os.path.dirname(video.relative), names, [video.label])
    return MediaList(builder.build(), rates)


def _videos_in_folders(arguments: Sequence[str]) -> tuple[list[ImageFile], list[str]]:
    """The videos below folders, and the arguments in which pictures may be."""
    videos, others = [], []
    for argument in arguments:
        found = list(_videos_below(argument)) if os.path.isdir(argument) else []
        videos += found
        if not found or next(pictures_below(argument), None) is not None:
            others.append(argument)
    return videos, others


def _videos_below(folder: str) -> Iterator[ImageFile]:
    for block in pictures_below(folder, VIDEO_SUFFIXES):
        label = block.folder.partition("/")[0]
        for name in block.names:
            relative = PurePath(block.folder, name)
            yield ImageFile(Path(folder, relative), label, relative)
