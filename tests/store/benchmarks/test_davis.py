"""DAVIS folders: which videos, which masks, and label maps in and out."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dino_cli.errors import TaskError
from dino_cli.store.benchmarks.davis import encode_labels, find_videos, read_labels


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


@pytest.fixture
def davis(tmp_path: Path) -> Path:
    for name in ("cow", "ant"):
        touch(tmp_path, *(f"JPEGImages/480p/{name}/{i:05d}.jpg" for i in (10, 2, 1)))
        touch(tmp_path, *(f"Annotations/480p/{name}/{i:05d}.png" for i in (1, 10)))
    touch(tmp_path, "JPEGImages/480p/cow/.hidden.jpg", "JPEGImages/480p/cow/notes.txt")
    return tmp_path


def test_all_videos_in_order(davis: Path) -> None:
    videos = find_videos(davis, None)
    assert [v.name for v in videos] == ["ant", "cow"]
    assert [p.name for p in videos[1].frames] == ["00001.jpg", "00002.jpg", "00010.jpg"]
    assert sorted(videos[1].masks) == ["00001", "00010"]
    assert videos[1].first_mask == davis / "Annotations/480p/cow/00001.png"


def test_lists_name_the_videos(davis: Path) -> None:
    touch(davis, "ImageSets/2016/val.txt", "ImageSets/2017/val.txt", "ImageSets/2017/train.txt")
    (davis / "ImageSets/2016/val.txt").write_text("ant\n")
    (davis / "ImageSets/2017/val.txt").write_text("cow\n\n")
    assert [v.name for v in find_videos(davis, None)] == ["cow"]
    with pytest.raises(TaskError, match=r"'.*train.txt' is empty"):
        find_videos(davis, "train")
    with pytest.raises(TaskError, match=r"no list 'test' .*there: train, val"):
        find_videos(davis, "test")
    (davis / "ImageSets/2017/train.txt").write_text("../cow\n")
    with pytest.raises(TaskError, match=r"'../cow' in .* is no video's name"):
        find_videos(davis, "train")
    (davis / "ImageSets/2017/train.txt").write_text("dog\n")
    with pytest.raises(TaskError, match="the video 'dog' has no folder"):
        find_videos(davis, "train")


def test_videos_without_a_folder_of_resolution(tmp_path: Path) -> None:
    touch(tmp_path, "JPEGImages/cow/1.png", "Annotations/cow/1.png")
    assert [v.name for v in find_videos(tmp_path, None)] == ["cow"]
    with pytest.raises(TaskError, match="no list 'val'"):
        find_videos(tmp_path, "val")
    touch(tmp_path, "JPEGImages/cow/1.jpg")
    with pytest.raises(TaskError, match="two frames '1'"):
        find_videos(tmp_path, None)


def test_what_is_missing_is_named(davis: Path) -> None:
    with pytest.raises(TaskError, match=r"no folder .*1080p'; use --resolution 480p"):
        find_videos(davis, None, "1080p")
    (davis / "Annotations/480p/cow/00001.png").unlink()
    with pytest.raises(TaskError, match="no mask of its first frame"):
        find_videos(davis, None)
    (davis / "JPEGImages/480p/bee").mkdir()
    with pytest.raises(TaskError, match="no frames in"):
        find_videos(davis, None)


def test_labels_there_and_back(tmp_path: Path) -> None:
    numbers = np.array([[0, 1, 2], [255, 5, 0]], np.uint8)
    path = tmp_path / "mask.png"
    path.write_bytes(encode_labels(numbers, [1, 2, 3, 4, 5, 6]))
    labels = read_labels(path)
    assert labels.numbers.tolist() == [[0, 1, 2], [0, 5, 0]]  # 255: void
    assert labels.objects == 5
    assert not labels.binary
    assert labels.palette[:6] == (1, 2, 3, 4, 5, 6)


def test_without_a_palette_the_colours_are_those_of_voc() -> None:
    image = Image.open(io.BytesIO(encode_labels(np.zeros((2, 3), np.uint8))))
    colours = np.array(image.getpalette()).reshape(-1, 3)
    assert image.size == (3, 2)
    assert colours[:5].tolist() == [[0, 0, 0], [128, 0, 0], [0, 128, 0], [128, 128, 0], [0, 0, 128]]
    assert colours[9].tolist() == [192, 0, 0]
    assert len({tuple(colour) for colour in colours}) == 256


def test_masks_of_one_object(tmp_path: Path) -> None:
    path = tmp_path / "mask.png"
    Image.fromarray(np.array([[0, 255]], np.uint8)).save(path)
    labels = read_labels(path)
    assert (labels.numbers.tolist(), labels.binary, labels.objects) == ([[0, 1]], True, 1)
    assert read_labels(path, binary=False).numbers.tolist() == [[0, 0]]
    Image.fromarray(np.array([[0, 3]], np.uint8)).save(path)
    assert read_labels(path).numbers.tolist() == [[0, 3]]
    assert read_labels(path, binary=True).numbers.tolist() == [[0, 0]]
    Image.fromarray(np.array([[0, 200]], np.uint8)).convert("1", dither=0).save(path)
    assert (read_labels(path).numbers.tolist(), read_labels(path).binary) == ([[0, 1]], True)


def test_no_label_map(tmp_path: Path) -> None:
    path = tmp_path / "mask.png"
    Image.new("RGB", (2, 2)).save(path)
    with pytest.raises(TaskError, match=r"has colours \(mode RGB\)"):
        read_labels(path)
    path.write_bytes(b"no picture")
    with pytest.raises(TaskError, match="cannot read the mask"):
        read_labels(path)
