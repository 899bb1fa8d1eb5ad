"""Frames that are kept for a page, and what is told of those that could not be read."""

from pathlib import Path, PurePath

import pytest
from heard import Heard

from dino_cli.data.decoding.decode import UnreadableImage
from dino_cli.data.decoding.video import PictureFrames
from dino_cli.data.listing.image_list import ImageFile
from dino_cli.errors import TaskError
from dino_cli.tasks.photos.frames import EvenFrames, check_frames, find_videos


@pytest.mark.parametrize("most", [1, 4, 8])
@pytest.mark.parametrize("length", [1, 3, 9, 100])
def test_kept_frames_are_even_and_few(most, length):
    frames = EvenFrames(most, fps=10.0)
    for number in range(length):
        if frames.wants(number):
            frames.add(number, str(number))
    kept = list(frames.kept)
    assert min(length, most) / 2 <= len(kept) <= most
    assert kept == list(range(0, length, frames.apart))
    assert frames.views()[0] == ("0.0 s", "0")


def test_no_frame_is_wanted_without_a_page():
    assert not EvenFrames(0, fps=10.0).wants(0)


def test_frames_that_could_not_be_read_are_told():
    frames = PictureFrames(Path("in"), [None] * 9, 10.0, True, (50, 70), [])
    reporter = Heard()
    check_frames(frames, 9, reporter, strict=True)
    check_frames(frames, 6, reporter, strict=False, whole=False)  # interrupted
    many = PictureFrames(Path("in"), [None] * 20, 10.0, True, (50, 70), [])
    check_frames(many, 19, reporter, strict=False)  # what files say is often wrong by a few
    assert not reporter.remarks
    frames.unread.append((Path("in/b.png"), "empty file"))
    assert check_frames(frames, 6, reporter, strict=False) == [("in/b.png", "empty file")]
    assert reporter.remarks == ["'in' says it has 9 frames, but only 6 could be read"]
    with pytest.raises(UnreadableImage, match="no frame in it"):
        check_frames(frames, 0, reporter, strict=False)
    with pytest.raises(TaskError, match=r"cannot read 'in/b\.png'"):
        check_frames(frames, 6, reporter, strict=True)


@pytest.mark.parametrize(
    ("listed", "order"),
    [
        ("f0 f1 f10 f11 f2", "f0 f1 f2 f10 f11"),  # as a folder is sorted
        ("f0001 f0002 f0010", "f0001 f0002 f0010"),
        ("1b2 1b10 2a3", "1b2 1b10 2a3"),  # as a person listed them
        ("f3 f2 f10", "f3 f2 f10"),
        ("10 9x a1 a1b", "9x 10 a1 a1b"),
    ],
)
def test_frames_come_in_the_order_of_their_numbers(listed, order):
    files = [ImageFile(Path(f"in/{n}.png"), "", PurePath(f"{n}.png")) for n in listed.split()]
    photos, videos = find_videos(files, [], 5.0, exif=True)
    assert not photos
    assert [file.path.stem for file in videos.folders[Path("in")]] == order.split()
