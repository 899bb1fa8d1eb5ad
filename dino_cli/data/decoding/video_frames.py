"""Frames of videos as if they were files: listed by name, and read by it.

`clip.mp4#frame=12` is a picture for everything that reads pictures. A reader goes forward only, so
that a frame is always the one of that number, whatever the format can seek to.
"""

import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from math import ceil
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dino_cli.config.frame_names import split_frame

__all__ = [
    "VIDEO_SUFFIXES",
    "in_video",
    "is_video_name",
    "numbers_of_frames",
    "open_capture",
    "opencv_quiet",
    "read_video_frame",
]

VIDEO_SUFFIXES = frozenset(
    {".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".ogv", ".webm", ".wmv"}
)
COUNTED = frozenset({".avi", ".m4v", ".mov", ".mp4"})  # their headers count frames; others estimate

SILENT = 0  # OpenCV's LOG_LEVEL_SILENT

# FFmpeg and OpenCV write about damaged files on stderr by themselves; we say it in one sentence.
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")


@contextmanager
def opencv_quiet() -> Iterator[None]:
    """OpenCV says nothing on stderr inside."""
    levels: Any = getattr(cv2.utils, "logging", cv2)  # where they were before OpenCV 4.13
    before = levels.getLogLevel()
    levels.setLogLevel(SILENT)
    try:
        yield
    finally:
        levels.setLogLevel(before)


def open_capture(video: str | Path) -> cv2.VideoCapture:
    """OpenCV's reader of a file, whatever its name; one that is not open for what is no video.

    Raises OSError for a file that cannot be opened.
    """
    # OpenCV crashes on names that are not UTF-8, and FFmpeg takes `a:b.mp4` for an address.
    with open(video, "rb") as file, opencv_quiet():
        name = os.path.abspath(video)
        if not name.isascii():
            name = f"/dev/fd/{file.fileno()}"
        return cv2.VideoCapture(name, cv2.CAP_FFMPEG)


def is_video_name(name: str) -> bool:
    """Whether a file is taken for a video, by its suffix."""
    return os.path.splitext(name)[1].lower() in VIDEO_SUFFIXES


def in_video(path: str | Path) -> tuple[str, int] | None:
    """(video, number) of a path that names a frame; None for any other, also when a file has it."""
    found = split_frame(os.fspath(path))
    if found is None or not is_video_name(found[0]) or os.path.lexists(path):
        return None
    return found


def numbers_of_frames(
    count: int, own_fps: float, fps: float | None, path: Path, capture: cv2.VideoCapture
) -> Sequence[int]:
    """Numbers of the frames that are looked at: all, or `fps` of each second, evenly apart.

    count: what the file says, 0 for nothing. Where that is an estimate the open file is gone
    through, which takes as long as decoding it.
    """
    if path.suffix.lower() not in COUNTED or count <= 0:
        count = 0
        while capture.grab():
            count += 1
    if fps is None or fps >= own_fps:
        return range(count)
    step = own_fps / fps
    numbers = (ceil(i * step - 1e-9) for i in range(ceil(count / step) + 1))
    return [number for number in numbers if number < count]


class _Reader:
    """An open video, and the number of the frame that comes next. process: that opened it."""

    def __init__(self, video: str, stamp: tuple[int, int]) -> None:
        self.video, self.stamp, self.process = video, stamp, os.getpid()
        self.capture = open_capture(video)
        self.next = 0

    def read(self, number: int) -> NDArray[np.uint8]:
        while self.next < number:
            if not self.capture.grab():
                raise EOFError("the video ends before that frame")
            self.next += 1
        got, frame = self.capture.read()
        self.next += 1
        if not got or frame is None:
            raise EOFError("the video ends before that frame, or it cannot be decoded")
        return np.asarray(cv2.cvtColor(frame, cv2.COLOR_BGR2RGB), np.uint8)


_own = threading.local()  # one open video for each thread
_abandoned: list[_Reader] = []  # of a parent process; closing them would wait for its threads


def read_video_frame(video: str, number: int) -> Image.Image:
    """A frame, RGB, turned as the file says. Frames in rising order cost one pass through the file.

    Raises OSError, `EOFError` for a number past the end, `ValueError` for what is no video.
    """
    status = os.stat(video)
    if not status.st_size:
        raise ValueError("empty file")
    stamp = (status.st_size, status.st_mtime_ns)
    reader: _Reader | None = getattr(_own, "reader", None)
    if reader is not None and reader.process != os.getpid():
        _abandoned.append(reader)
        reader = None
    if reader is None or (reader.video, reader.stamp) != (video, stamp) or reader.next > number:
        if reader is not None:
            reader.capture.release()
        _own.reader = reader = _Reader(video, stamp)
        if not reader.capture.isOpened():
            _own.reader = None
            raise ValueError("not a video that OpenCV's FFmpeg knows")
    return Image.fromarray(reader.read(number))
