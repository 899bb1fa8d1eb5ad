"""Write videos: H.264 by an FFmpeg program where there is one, else MPEG-4 part 2 by OpenCV."""

import os
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from fractions import Fraction
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from shutil import which

import cv2
import numpy as np
from numpy.typing import NDArray

__all__ = ["NO_H264", "VideoWriter", "h264_program", "named_videos", "video_writer"]

NO_H264 = (
    "no FFmpeg with H.264 is here, so videos are written as MPEG-4 part 2, which browsers do not"
    " play; install ffmpeg, or pip install 'dino-cli[video]'"
)
QUALITY = "18"  # of H.264, constant rate factor: no difference to be seen
LOOKAHEAD = "rc-lookahead=10"  # frames that an encoder holds: there may be twenty of them at once


@cache
def h264_program() -> str | None:
    """An FFmpeg that encodes H.264: the one on the PATH, or that of the package imageio-ffmpeg."""
    programs = [which("ffmpeg")]
    if find_spec("imageio_ffmpeg"):
        with suppress(RuntimeError):  # the package without its program
            programs.append(import_module("imageio_ffmpeg").get_ffmpeg_exe())
    for program in programs:
        if program is not None and _encodes_h264(program):
            return program
    return None


def _encodes_h264(program: str) -> bool:
    try:
        told = subprocess.run(
            [program, "-hide_banner", "-encoders"], capture_output=True, text=True, timeout=20
        )
    except (OSError, subprocess.SubprocessError):
        return False
    return " libx264 " in told.stdout


class VideoWriter:
    """Frames of one size, one after the other, into an .mp4. Use `video_writer`."""

    def __init__(self, path: Path, size: tuple[int, int], fps: float) -> None:
        self.path = path
        self.size = (size[0] + size[0] % 2, size[1] + size[1] % 2)  # 4:2:0 colour is in pairs
        self._program: subprocess.Popen[bytes] | None = None
        self._opencv: cv2.VideoWriter | None = None
        height, width = self.size
        program = h264_program()
        if program is None:
            self._opencv = _opencv_writer(path, (width, height), fps)
            return
        self._said = tempfile.TemporaryFile()  # noqa: SIM115  (closed with the writer)
        rate = Fraction(fps).limit_denominator(1001)
        given = f"-f rawvideo -pix_fmt rgb24 -s {width}x{height} -r {rate} -i -"
        made = f"-an -c:v libx264 -preset veryfast -crf {QUALITY} -x264-params {LOOKAHEAD}"
        file = "-threads 1 -pix_fmt yuv420p -movflags +faststart -f mp4"
        line = f"-y -loglevel error {given} {made} {file}".split()
        self._program = subprocess.Popen(
            [program, *line, os.path.abspath(path)],  # it takes `a:b.mp4` for an address
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=self._said,
            start_new_session=True,  # Ctrl-C is ours to handle: what is written shall be whole
        )

    def write(self, frame: NDArray[np.uint8]) -> None:
        """One frame, RGB uint8 (H, W, 3). Raises `OSError` when it cannot be written."""
        height, width = self.size
        padding = ((0, height - frame.shape[0]), (0, width - frame.shape[1]), (0, 0))
        if any(after for _, after in padding):
            frame = np.pad(frame, padding, mode="edge")
        if self._opencv is not None:
            self._opencv.write(np.asarray(cv2.cvtColor(frame, cv2.COLOR_RGB2BGR)))
            return
        assert self._program is not None
        assert self._program.stdin is not None
        try:
            self._program.stdin.write(np.ascontiguousarray(frame).data)
        except BrokenPipeError:
            self._program.wait()
            raise OSError(self._complaint()) from None

    def close(self) -> None:
        """The file is whole afterwards. Raises `OSError` when it is not."""
        if self._opencv is not None:
            self._opencv.release()
        elif self._program is not None and self._program.stdin is not None:
            with self._said:
                with suppress(BrokenPipeError):
                    self._program.stdin.close()
                if self._program.wait() != 0:
                    raise OSError(self._complaint())

    def abandon(self) -> None:
        """Stop; what was written is no video."""
        if self._opencv is not None:
            self._opencv.release()
        if self._program is not None:
            self._program.kill()
            if self._program.stdin is not None:
                with suppress(BrokenPipeError):
                    self._program.stdin.close()
            self._program.wait()
            self._said.close()

    def _complaint(self) -> str:
        self._said.seek(0)
        lines = self._said.read().decode(errors="replace").split("\n")
        return f"FFmpeg: {next((line for line in lines if line.strip()), 'failed')}"


def _opencv_writer(path: Path, size: tuple[int, int], fps: float) -> cv2.VideoWriter:
    """size: width and height. Only the name itself has to be UTF-8, not those of its folders."""
    try:
        folder = os.open(path.parent, os.O_RDONLY)
    except OSError as error:
        raise OSError(f"OpenCV cannot write {path.name}: {error.strerror}") from None
    try:
        name, code = f"/dev/fd/{folder}/{path.name}", cv2.VideoWriter.fourcc(*"mp4v")
        writer = cv2.VideoWriter(name, cv2.CAP_FFMPEG, code, fps, size)
    finally:
        os.close(folder)
    if not writer.isOpened():
        raise OSError(f"OpenCV cannot write {path.name}")
    return writer


@contextmanager
def video_writer(path: Path, size: tuple[int, int], fps: float) -> Iterator[VideoWriter]:
    """A writer of frames (height, width); after an error no program is left running."""
    writer = VideoWriter(path, size, fps)
    try:
        yield writer
    except BaseException:
        writer.abandon()
        raise
    writer.close()


@contextmanager
def named_videos(folder: Path, fps: float) -> Iterator[Callable[[str, NDArray[np.uint8]], None]]:
    """Yield a function that writes a frame, RGB uint8 (H, W, 3), into `folder`/NAME.mp4.

    A video begins with its first frame, whose size it keeps. After an error no program is left
    running. Raises `OSError`.
    """
    writers: dict[str, VideoWriter] = {}
    with ExitStack() as stack:

        def write(name: str, frame: NDArray[np.uint8]) -> None:
            if name not in writers:
                size = frame.shape[0], frame.shape[1]
                writer = video_writer(folder / f"{name}.mp4", size, fps)
                writers[name] = stack.enter_context(writer)
            writers[name].write(frame)

        yield write
