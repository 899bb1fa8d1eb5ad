"""Frames of videos and of pictures that stand for them."""

from fractions import Fraction
from math import ceil
from pathlib import Path, PurePath

import numpy as np
import pytest
from PIL import Image
from small_vit import disc, photo, video

from dino_cli.data.decoding.decode import UnreadableImage
from dino_cli.data.decoding.video import open_pictures, open_video
from dino_cli.data.decoding.video_frames import numbers_of_frames
from dino_cli.data.listing.image_list import ImageFile
from dino_cli.data.listing.media import find_media
from dino_cli.errors import TaskError


def _middle(frame):
    """Column of the middle of the disc."""
    return float(np.nonzero(frame[..., 0] > 128)[1].mean())


def test_frames_come_in_order_and_in_rgb(tmp_path):
    frames = open_video(video(tmp_path / "clip.mp4", frames=10, fps=10))
    assert (frames.size, frames.count, frames.fps) == ((50, 70), 10, 10)
    seen = list(frames)
    frames.close()
    assert len(seen) == 10
    assert (np.diff([_middle(frame) for frame in seen]) > 1).all()
    for i, frame in enumerate(seen):
        assert np.abs(frame.astype(int) - disc(seed=i, at=(0.25 + 0.05 * i, 0.5))).mean() < 20


@pytest.mark.parametrize(("fps", "kept"), [(5, [0, 2, 4, 6, 8]), (2.5, [0, 4, 8]), (60, range(10))])
def test_fewer_frames_are_evenly_apart(tmp_path, fps, kept):
    path = video(tmp_path / "clip.mp4", frames=10, fps=10)
    every = [_middle(frame) for frame in open_video(path)]
    frames = open_video(path, fps)
    assert [_middle(frame) for frame in frames] == [every[i] for i in kept]
    assert frames.fps == min(fps, 10)
    assert abs(frames.count - len(kept)) <= 1


@pytest.mark.parametrize("fps", [3, 4, 7, 9.5])
def test_the_frames_that_are_listed_are_those_that_are_given(tmp_path, fps):
    """The first one at or after each moment, exactly, however many there are."""
    path = video(tmp_path / "clip.mp4", frames=30, fps=10)
    every = [_middle(frame) for frame in open_video(path)]
    moments = (Fraction(10) / Fraction(fps) * i for i in range(30))
    wanted = [ceil(moment) for moment in moments if ceil(moment) < 30]
    assert [_middle(frame) for frame in open_video(path, fps)] == [every[i] for i in wanted]
    whole = open_video(path)
    assert numbers_of_frames(30, whole.own_fps, fps, path, whole.capture) == wanted


@pytest.mark.parametrize(
    ("content", "reason"), [(b"", "empty"), (b"no video at all", "not a video"), (None, "no such")]
)
def test_what_is_no_video_is_named_and_nothing_is_printed(tmp_path, capfd, content, reason):
    if content is not None:
        (tmp_path / "clip.mp4").write_bytes(content)
    with pytest.raises(UnreadableImage, match=reason):
        open_video(tmp_path / "clip.mp4")
    assert capfd.readouterr() == ("", "")


def test_a_video_that_is_cut_off_gives_what_is_there(tmp_path):
    path = video(tmp_path / "clip.avi", frames=40)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    try:
        frames = list(open_video(path))
    except UnreadableImage:
        return
    assert 0 < len(frames) < 40


def test_media_of_folders_files_and_lists(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    photo(Path("in/a.png"))
    photo(Path("in/x/b.png"))
    for name in ("in/x/c.MP4", "in/.hidden/d.mp4", "only/e.mov", "f.webm"):
        Path(name).parent.mkdir(exist_ok=True, parents=True)
        Path(name).write_bytes(b"-")
    Path("list.txt").write_text("f.webm\nin/a.png\n")
    pictures, videos = find_media(["in", "only", "list.txt", "f.webm"])
    assert [file.path for file in pictures] == [Path("in/a.png"), Path("in/x/b.png")]
    assert [(file.path, file.relative) for file in videos] == [
        (Path("in/x/c.MP4"), PurePath("x/c.MP4")),
        (Path("only/e.mov"), PurePath("e.mov")),
        (Path("f.webm"), PurePath("f.webm")),
    ]


def test_videos_in_linked_folders_are_found_as_pictures_are(tmp_path):
    photo(tmp_path / "there/a.png")
    (tmp_path / "there/c.mp4").write_bytes(b"-")
    (tmp_path / "in").mkdir()
    (tmp_path / "in/linked").symlink_to(tmp_path / "there")
    pictures, videos = find_media([str(tmp_path / "in")])
    assert [str(file.relative) for file in (*pictures, *videos)] == ["linked/a.png", "linked/c.mp4"]


def test_neither_pictures_nor_videos(tmp_path):
    with pytest.raises(TaskError, match="no pictures"):
        find_media([str(tmp_path)])


def test_pictures_as_frames_have_one_size_and_skip_the_unreadable(tmp_path):
    names = ["0.png", "1.png", "2.png"]
    photo(tmp_path / "0.png", (40, 30))
    (tmp_path / "1.png").write_bytes(b"-")
    photo(tmp_path / "2.png", (80, 60))
    files = [ImageFile(tmp_path / name, "", PurePath(name)) for name in names]
    frames = open_pictures(tmp_path, files, 12, exif=True)
    assert [frame.shape for frame in frames] == [(30, 40, 3)] * 2
    assert frames.unread[0][0].name == "1.png"
    turned = Image.Exif()
    turned[0x0112] = 6
    Image.open(tmp_path / "0.png").save(tmp_path / "t.jpg", exif=turned)
    one = [ImageFile(tmp_path / "t.jpg", "", PurePath("t.jpg"))]
    assert open_pictures(tmp_path, one, 12, exif=True).size == (40, 30)
    assert open_pictures(tmp_path, one, 12, exif=False).size == (30, 40)
    with pytest.raises(UnreadableImage, match="not a picture"):
        open_pictures(tmp_path, files[1:2], 12, exif=True)
