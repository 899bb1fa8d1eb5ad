"""COCO files, against pycocotools."""

import json

import cv2
import numpy as np
import pytest

from dino_cli.core.masks.polygons import polygons
from dino_cli.store.coco import annotation, coco_file, run_lengths

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
coco_mask = pytest.importorskip("pycocotools.mask")


def _masks(count, sigma):
    rng = np.random.default_rng(count)
    for _ in range(count):
        h, w = (int(v) for v in rng.integers(1, 70, 2))
        noise = rng.random((h, w))
        yield (cv2.GaussianBlur(noise, (0, 0), sigma) if sigma else noise) > rng.uniform(0.4, 0.6)


def _corner_cases():
    yield np.zeros((4, 5), bool)
    yield np.ones((4, 5), bool)
    yield np.ones((1, 1), bool)
    long = np.zeros((300, 400), bool)
    long[:, 100:] = True
    yield long


@pytest.mark.parametrize("masks", [_masks(60, 0), _masks(60, 3), _corner_cases()])
def test_run_lengths_are_those_of_pycocotools(masks):
    for mask in masks:
        mine = run_lengths(mask)
        theirs = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
        assert mine["size"] == list(theirs["size"])
        assert mine["counts"].encode() == theirs["counts"]


def _decoded(found, size):
    merged = coco_mask.merge(coco_mask.frPyObjects(found, *size))
    return coco_mask.decode(merged).astype(bool)


def _nested_rings():
    mask = np.zeros((41, 47), bool)
    for step in range(0, 20, 2):  # the outermost touches the border; gaps of one pixel
        mask[step : 41 - step, step : 47 - step] = True
        mask[step + 1 : 40 - step, step + 1 : 46 - step] = False
    return mask


def _with_holes():
    """Holes side by side, one above the other, touching at corners, and islands in them."""
    mask = np.ones((40, 50), bool)
    mask[5:9, 5:45] = mask[12:15, 20:23] = mask[12:15, 24:27] = mask[15:18, 23:24] = False
    mask[20:35, 5:45] = False
    mask[22:33, 8:20] = mask[24:30, 30:40] = True
    mask[26:28, 33:36] = mask[1, 1] = mask[38, 48] = False
    return mask


def _blocks():
    coarse = np.random.default_rng(0).random((23, 31)) > 0.4
    return coarse.repeat(16, axis=0).repeat(16, axis=1)[:365, :490]


@pytest.mark.parametrize(
    "mask",
    [_nested_rings(), _with_holes(), _blocks(), np.eye(6, dtype=bool), ~np.eye(7, dtype=bool)],
)
def test_polygons_hold_holes_gaps_and_islands(mask):
    found = polygons(mask)
    assert np.array_equal(_decoded(found, mask.shape), mask)
    joined, _ = cv2.connectedComponents(mask.astype(np.uint8), connectivity=4)
    assert len(found) == joined - 1
    for ring in found:
        points = np.array(ring).reshape(-1, 2)
        assert (points != np.roll(points, 1, axis=0)).any(axis=1).all()  # every edge has a length


def test_polygons_rasterise_to_the_same_pixels():
    for mask in [*_masks(60, 2), *_masks(20, 0), *_corner_cases()]:
        found = polygons(mask)
        if not mask.any():
            assert found == []
            continue
        assert np.array_equal(_decoded(found, mask.shape), mask)


def test_the_polygon_of_a_hole_has_a_slit_and_the_right_area():
    mask = np.ones((3, 3), bool)
    mask[1, 1] = False
    (ring,) = polygons(mask)
    assert ring == [0, 0, 1, 0, 1, 1, 1, 2, 2, 2, 2, 1, 1, 1, 1, 0, 3, 0, 3, 3, 0, 3]
    assert cv2.contourArea(np.array(ring, np.int32).reshape(-1, 2)) == 8


def test_file_is_read_by_pycocotools_in_the_order_of_the_images(tmp_path, capsys):
    from pycocotools.coco import COCO

    masks = np.zeros((3, 30, 40), bool)
    masks[0, 2:5, 3:10] = masks[1, 10:, 20:] = True
    with coco_file() as file:
        for number, name in ((2, "b.jpg"), (0, "ä.jpg"), (1, "empty.jpg")):
            wanted = [masks[0], masks[1]] if number == 2 else [masks[number and 2]]
            made = [annotation(m, "rle", category_id=1, score=0.5) for m in wanted]
            image = {"file_name": name, "height": 30, "width": 40}
            file.add((number, 0), image, [one for one in made if one is not None])
        file.write(tmp_path / "coco.json", {"categories": [{"id": 1, "name": "object"}]})
    read = COCO(str(tmp_path / "coco.json"))
    capsys.readouterr()
    assert [read.imgs[i]["file_name"] for i in (1, 2, 3)] == ["ä.jpg", "empty.jpg", "b.jpg"]
    assert [len(read.getAnnIds(i)) for i in (1, 2, 3)] == [1, 0, 2]
    first, second = read.loadAnns(read.getAnnIds(3))
    assert np.array_equal(read.annToMask(first), masks[0])
    assert np.array_equal(read.annToMask(second), masks[1])
    assert first["bbox"] == [3, 2, 7, 3]
    assert first["bbox"] == coco_mask.toBbox(first["segmentation"]).tolist()
    assert (first["area"], second["area"]) == (21, 400)
    assert sorted(read.anns) == [1, 2, 3]


def test_nothing_is_left_of_an_empty_mask_and_of_a_failed_file(tmp_path):
    assert annotation(np.zeros((3, 3), bool), "rle", category_id=1) is None
    with coco_file() as file, pytest.raises(FileNotFoundError):
        file.write(tmp_path / "no" / "coco.json", {})
    assert list(tmp_path.iterdir()) == []


def test_file_without_images_is_valid(tmp_path):
    with coco_file() as file:
        file.write(tmp_path / "coco.json", {"info": {}})
    read = json.loads((tmp_path / "coco.json").read_text())
    assert read == {"info": {}, "images": [], "annotations": []}
