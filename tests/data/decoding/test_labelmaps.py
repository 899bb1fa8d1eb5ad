"""What the pixels of a label map mean, by the kinds of files that people have."""

import numpy as np
import pytest
from PIL import Image

from dino_cli.data.decoding.decode import UnreadableImage
from dino_cli.data.decoding.labelmaps import read_label_map, resize_labels


def labels_of(tmp_path, pixels, mode=None, palette=None):
    image = Image.fromarray(np.asarray(pixels))
    if palette:
        image.putpalette(palette)
    if mode:
        image = image.convert(mode)
    image.save(tmp_path / "map.png")
    return read_label_map(tmp_path / "map.png").tolist()


def test_a_palette_holds_the_labels(tmp_path):
    values = np.array([[0, 1, 2, 255]], np.uint8)
    palette = [0] * 768
    assert labels_of(tmp_path, values, palette=palette) == values.tolist()
    # An image of VOC whose only marks are void has no object.
    assert labels_of(tmp_path, values[:, [0, 3]], palette=palette) == [[0, 255]]


def test_black_and_white_is_one_object(tmp_path):
    assert labels_of(tmp_path, np.array([[0, 255, 255]], np.uint8)) == [[0, 1, 1]]
    assert labels_of(tmp_path, np.array([[0, 255, 255]], np.uint8), "RGB") == [[0, 1, 1]]
    assert labels_of(tmp_path, np.array([[0, 255, 255]], np.uint8), "1") == [[0, 1, 1]]
    soft = np.arange(256, dtype=np.uint8).reshape(16, 16)
    assert np.sum(labels_of(tmp_path, soft)) == 128


def test_few_greys_are_labels(tmp_path):
    assert labels_of(tmp_path, np.array([[0, 1, 7, 255]], np.uint8)) == [[0, 1, 7, 255]]
    assert labels_of(tmp_path, np.array([[0, 1]], np.uint8)) == [[0, 1]]
    assert labels_of(tmp_path, np.array([[0, 3, 200]], np.uint16)) == [[0, 3, 200]]
    with pytest.raises(UnreadableImage, match="labels from 0 to 300"):
        labels_of(tmp_path, np.array([[0, 300]], np.uint16))


def test_colours_are_objects_and_cream_is_void(tmp_path):
    row = [[0, 0, 0], [128, 0, 0], [0, 128, 0], [128, 0, 0], [224, 224, 192]]
    (found,) = labels_of(tmp_path, np.array([row], np.uint8))
    assert (found[0], found[4]) == (0, 255)
    assert found[1] == found[3] != found[2]
    assert min(found[1], found[2]) > 0


def test_64_labels_are_the_most(tmp_path):
    greys = np.arange(65, dtype=np.uint8)[None] * 3
    assert labels_of(tmp_path, greys[:, :64]) == greys[:, :64].tolist()
    assert labels_of(tmp_path, greys) == (greys > 127).astype(int).tolist()  # a soft mask
    colours = np.stack([greys, greys[:, ::-1], 0 * greys], axis=-1)
    assert sorted(labels_of(tmp_path, colours[:, :64])[0]) == list(range(1, 65))
    with pytest.raises(UnreadableImage, match="65 different colours"):
        labels_of(tmp_path, colours)


def test_alpha_of_a_label_map_says_nothing(tmp_path):
    greys = np.array([[0, 1, 7, 255]], np.uint8)
    for mode in ("LA", "RGBA"):
        assert labels_of(tmp_path, greys, mode) == greys.tolist()


def test_what_is_no_label_map(tmp_path):
    with pytest.raises(UnreadableImage, match="no such file"):
        read_label_map(tmp_path / "gone.png")
    (tmp_path / "bad.png").write_bytes(b"no picture")
    with pytest.raises(UnreadableImage):
        read_label_map(tmp_path / "bad.png")
    noise = np.random.default_rng(0).integers(0, 256, (20, 20, 3), np.uint8)
    with pytest.raises(UnreadableImage, match="different colours"):
        labels_of(tmp_path, noise)


def test_resizing_takes_the_nearest_pixel():
    labels = np.arange(6, dtype=np.uint8).reshape(2, 3)
    assert resize_labels(labels, (4, 6)).tolist() == np.kron(labels, np.ones((2, 2))).tolist()
    assert resize_labels(labels, (2, 3)) is labels
