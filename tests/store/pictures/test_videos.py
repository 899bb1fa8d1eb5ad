"""Videos are written whole, by either encoder, or not at all."""

import os
import signal
from pathlib import Path

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
        edge = a[: size[0], size[1] :].astype(int)  # what makes it even is like its neighbours
        assert np.abs(edge - b[:, -1:]).mean() < 30 if edge.size else size[1] == 70


def test_a_rate_that_is_no_whole_number_is_kept(tmp_path, encoder):
    with video_writer(tmp_path / "clip.mp4", (48, 64), 24000 / 1001) as writer:
        for _ in range(3):
            writer.write(np.zeros((48, 64, 3), np.uint8))
    assert _read(tmp_path / "clip.mp4")[1] == pytest.approx(24000 / 1001, abs=0.002)


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


def _write(path, frames=100, kill=False):
    with video_writer(path, (48, 64), 25) as writer:
        if kill:
            os.kill(writer._program.pid, signal.SIGKILL)
            writer._program.wait()
        for _ in range(frames):
            writer.write(np.zeros((48, 64, 3), np.uint8))


def test_a_program_that_dies_is_an_error(tmp_path):
    if h264_program() is None:
        pytest.skip("no FFmpeg with libx264")
    with pytest.raises(OSError, match="FFmpeg"):
        _write(tmp_path / "a.mp4", kill=True)


def test_where_nothing_can_be_written(tmp_path, encoder):
    with pytest.raises(OSError, match=r"FFmpeg|OpenCV"):
        _write(tmp_path / "no" / "clip.mp4")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_a_full_disk_is_told_by_its_name(tmp_path):
    if h264_program() is None:
        pytest.skip("no FFmpeg with libx264")
    (tmp_path / "a.mp4").symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left"):
        _write(tmp_path / "a.mp4", frames=3)


def test_a_program_that_cannot_encode_is_not_taken(tmp_path, monkeypatch):
    program = tmp_path / "ffmpeg"
    program.write_text("#!/bin/sh\necho ' V..... mpeg4   MPEG-4 part 2'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    assert h264_program.__wrapped__() != str(program)
    program.write_text("#!/bin/sh\necho ' V....D libx264   H.264'\n")
    assert h264_program.__wrapped__() == str(program)


def test_ctrl_c_does_not_reach_the_program(tmp_path):
    """A terminal sends it to the whole group; what is written so far shall become a whole file."""
    if h264_program() is None:
        pytest.skip("no FFmpeg with libx264")
    with video_writer(tmp_path / "a.mp4", (48, 64), 25) as writer:
        writer.write(np.zeros((48, 64, 3), np.uint8))
        assert os.getpgid(writer._program.pid) != os.getpgid(0)
