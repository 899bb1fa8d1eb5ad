"""Frames for label propagation: sizes by hand, pixels by OpenCV."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from dino_cli.data.decoding import propagation_frames as frames
from dino_cli.data.decoding.decode import UnreadableImage
from dino_cli.data.decoding.labelmaps import resize_labels
from dino_cli.data.decoding.propagation_frames import frame_size, read_frame


@pytest.mark.parametrize(
    ("photo", "short", "patch", "expected"),
    [
        ((480, 854), 480, 16, (480, 832)),  # 854 → 13 times 64
        ((854, 480), 480, 16, (832, 480)),
        ((480, 854), 480, 8, (480, 832)),
        ((60, 104), 480, 16, (480, 832)),
        ((1080, 1920), 480, 16, (480, 832)),
        ((480, 480), 480, 16, (480, 448)),  # of equal sides only the height counts as the short one
        ((480, 854), 480, 14, (476, 854)),  # 480 is not a multiple of 14: whole patches instead
        ((480, 854), 224, 16, (224, 384)),
        ((480, 854), 100, 16, (96, 176)),
        ((16, 16), 16, 16, (16, 16)),
    ],
)
def test_size_in_the_network(photo, short, patch, expected) -> None:
    assert frame_size(photo, short, patch) == expected


def test_pixels_are_opencvs(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (90, 150, 3), dtype=np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6  # masks are not turned, so frames are not either
    Image.fromarray(pixels).save(tmp_path / "0.png", exif=exif)
    frame, photo = read_frame(tmp_path / "0.png", 64, 16)
    assert photo == (90, 150)
    np.testing.assert_array_equal(frame, cv2.resize(pixels, (64, 64)))


def test_unreadable_and_endless_frames(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "0.png").write_bytes(b"")
    with pytest.raises(UnreadableImage):
        read_frame(tmp_path / "0.png", 64, 16)
    Image.new("RGB", (2000, 1)).save(tmp_path / "1.png")
    monkeypatch.setattr(frames, "MOST_PIXELS", 1_000_000)
    with pytest.raises(UnreadableImage, match="would become 128000 x 64 pixels"):
        read_frame(tmp_path / "1.png", 64, 16)


def test_labels_by_nearest_neighbour() -> None:
    labels = np.array([[0, 1], [2, 3]], np.uint8)
    assert resize_labels(labels, (2, 2)) is labels
    assert resize_labels(labels, (2, 4)).tolist() == [[0, 0, 1, 1], [2, 2, 3, 3]]
    assert resize_labels(resize_labels(labels, (20, 30)), (2, 2)).tolist() == labels.tolist()
