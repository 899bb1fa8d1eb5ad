"""Videos are written whole, by either encoder, or not at all."""

import os
import signal

import cv2
import numpy as np
import pytest
from small_vit import disc

from dino_cli.store.pictures import videos
from dino_cli.store.pictures.videos import h264_program, video_writer


def _read(path):
    capture = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG)
    code = int(capture.get(cv2.CAP_PROP_FOURCC)).to_bytes(4, "little").decode()
    fps, frames = capture.get(cv2.CAP_PROP_FPS), []
    while True:
        got, frame = capture.read()
        if not got:
            return code, fps, frames
        frames.append(frame[..., ::-1])


@pytest.fixture(params=["h264", "mp4v"])
def encoder(request, monkeypatch):
    if request.param == "mp4v":
        monkeypatch.setattr(videos, "h264_program", lambda: None)
    elif h264_program() is None:
        pytest.skip("no FFmpeg with libx264")
    return request.param


@pytest.mark.parametrize("size", [(50, 70), (51, 71)])
def test_frames_come_back(tmp_path, encoder, size):
    shown = [disc(size[::-1], seed=i, at=(0.3 + 0.05 * i, 0.5)) for i in range(12)]
    with video_writer(tmp_path / "clip.mp4", size, 12.5) as writer:
        for frame in shown:
            writer.write(frame)
    code, fps, seen = _read(tmp_path / "clip.mp4")
    assert code == {"h264": "h264", "mp4v": "FMP4"}[encoder] or code in ("avc1", "mp4v")
    assert fps == pytest.approx(12.5, abs=0.01)
    assert len(seen) == 12
    for a, b in zip(seen, shown, strict=True):
        assert a.shape[0] in (50, 52)  # even
        assert np.abs(a[: size[0], : size[1]].astype(int) - b).mean() < 22


def test_an_error_leaves_no_program_running(tmp_path, encoder):
    programs = []

    def fail():
        with video_writer(tmp_path / "a.mp4", (48, 64), 25) as writer:
            writer.write(np.zeros((48, 64, 3), np.uint8))
            programs.append(writer._program)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert all(program is None or program.poll() is not None for program in programs)


def _write_a_hundred(path, kill=False):
    with video_writer(path, (48, 64), 25) as writer:
        if kill:
            os.kill(writer._program.pid, signal.SIGKILL)
            writer._program.wait()
        for _ in range(100):
            writer.write(np.zeros((48, 64, 3), np.uint8))


def test_a_program_that_dies_is_an_error(tmp_path):
    if h264_program() is None:
        pytest.skip("no FFmpeg with libx264")
    with pytest.raises(OSError, match="FFmpeg"):
        _write_a_hundred(tmp_path / "a.mp4", kill=True)


def test_where_nothing_can_be_written(tmp_path, encoder):
    with pytest.raises(OSError, match=r"FFmpeg|OpenCV"):
        _write_a_hundred(tmp_path / "no" / "clip.mp4")
