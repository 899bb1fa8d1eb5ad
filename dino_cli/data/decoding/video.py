"""Videos as pictures: their frames one after the other, never all at once.

OpenCV decodes, with the FFmpeg inside its wheel; pictures of a folder can stand for frames too.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dino_cli.data.decoding.decode import UnreadableImage, read_image
from dino_cli.data.decoding.video_frames import open_capture, opencv_quiet
from dino_cli.data.listing.image_list import ImageFile

__all__ = [
    "PictureFrames",
    "VideoFrames",
    "open_pictures",
    "open_video",
]

DEFAULT_FPS = 25.0  # of a file that does not tell


@dataclass
class VideoFrames:
    """An open video. size: height and width of a frame in pixels; count: frames, as the file says,
    which may be wrong by a few, 0 when it does not say.

    fps: frames per second that are given; fewer than the file's own leave frames out evenly.
    """

    path: Path
    size: tuple[int, int]
    fps: float
    count: int
    own_fps: float
    capture: cv2.VideoCapture

    def __iter__(self) -> Iterator[NDArray[np.uint8]]:
        """Frames as RGB, uint8 (H, W, 3), turned as the file says; once only."""
        due, number = 0.0, 0
        step = self.own_fps / self.fps
        while self.capture.grab():
            if number >= due - 1e-9:
                got, frame = self.capture.retrieve()
                if not got:
                    return
                due += step
                yield np.asarray(cv2.cvtColor(frame, cv2.COLOR_BGR2RGB), np.uint8)
            number += 1

    def close(self) -> None:
        self.capture.release()


def open_video(path: Path, fps: float | None = None) -> VideoFrames:
    """Open a video for reading; fps: at most so many frames of each second.

    Raises `UnreadableImage` for what is no video, or holds no frame.
    """
    if not path.is_file():
        raise UnreadableImage("no such file")
    if path.stat().st_size == 0:
        raise UnreadableImage("empty file")
    with opencv_quiet():
        capture = open_capture(path)
        got, first = capture.read() if capture.isOpened() else (False, None)
        if not got or first is None:
            capture.release()
            raise UnreadableImage("not a video that OpenCV's FFmpeg knows, or it has no frame")
        own = float(capture.get(cv2.CAP_PROP_FPS))
        own = own if 0 < own < 1000 else DEFAULT_FPS
        count = max(0, int(capture.get(cv2.CAP_PROP_FRAME_COUNT)))
        capture.release()  # seeking back to the first frame is not exact in every format
        capture = open_capture(path)
    kept = min(own, fps) if fps else own
    size = (int(first.shape[0]), int(first.shape[1]))
    return VideoFrames(path, size, kept, round(count * kept / own), own, capture)


@dataclass
class PictureFrames:
    """Pictures that stand for the frames of a video: all of the first one's size.

    Others are resized to it (Pillow's bicubic). unread: paths and reasons of files that gave no
    frame; they are left out.
    """

    path: Path
    files: Sequence[ImageFile]
    fps: float
    exif: bool
    size: tuple[int, int]
    unread: list[tuple[Path, str]]

    @property
    def count(self) -> int:
        return len(self.files)

    def __iter__(self) -> Iterator[NDArray[np.uint8]]:
        """Frames as RGB, uint8 (H, W, 3)."""
        for file in self.files:
            try:
                image = read_image(file.path, exif=self.exif)
            except UnreadableImage as error:
                self.unread.append((file.path, error.reason))
                continue
            if image.size != self.size[::-1]:
                image = image.resize(self.size[::-1], Image.Resampling.BICUBIC)
            yield np.asarray(image)

    def close(self) -> None:
        """Nothing is open between frames."""


def open_pictures(
    path: Path, files: Sequence[ImageFile], fps: float, *, exif: bool
) -> PictureFrames:
    """Pictures as frames; `path` is their folder. Raises `UnreadableImage` if none can be read."""
    reason = "no picture in it"
    for file in files:
        try:
            width, height = read_image(file.path, exif=exif).size
        except UnreadableImage as error:
            reason = error.reason
            continue
        return PictureFrames(path, files, fps, exif, (height, width), [])
    raise UnreadableImage(reason)
