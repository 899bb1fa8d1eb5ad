"""Overlap of masks with objects, against counting pixel by pixel."""

import numpy as np
import pytest

from dino_cli.core.evaluation.overlaps import bounding_box, box_overlap, centre_box, objects_of


def slow_overlap(mask, labels, value, patch):
    shared = union = 0
    for y in range(labels.shape[0]):
        for x in range(labels.shape[1]):
            row, column = y // patch, x // patch
            inside = row < len(mask) and column < mask.shape[1] and bool(mask[row, column])
            own = labels[y, x] == value
            shared += inside and own
            union += inside or own
    return shared / union


@pytest.mark.parametrize(("patch", "size"), [(1, (9, 12)), (4, (16, 20)), (4, (18, 23))])
def test_overlap_of_every_object_and_mask(patch, size):
    random = np.random.default_rng(patch)
    labels = random.choice([0, 1, 2, 5, 255], size)
    masks = random.random((3, size[0] // patch, size[1] // patch)) < 0.5
    objects = objects_of(labels)
    assert objects.labels == [1, 2, 5]  # neither background nor void
    found = objects.overlaps(masks, patch)
    for row, value in zip(found, objects.labels, strict=True):
        expected = [slow_overlap(mask, labels, value, patch) for mask in masks]
        np.testing.assert_allclose(row, expected)


def test_void_counts_in_the_union_only():
    labels = np.array([[1, 1, 255, 0]])
    whole = np.ones((1, 1, 4), bool)
    assert objects_of(labels).overlaps(whole)[0, 0] == 0.5
    assert objects_of(np.zeros((3, 3))).labels == []


def test_boxes():
    box = centre_box(10, 20)
    assert (box.sum(), bounding_box(box)) == (6 * 12, (2, 4, 8, 16))
    assert bounding_box(np.zeros((3, 3), bool)) == (0, 0, 0, 0)
    assert box_overlap((0, 0, 2, 2), (0, 0, 2, 2)) == 1
    assert box_overlap((0, 0, 2, 2), (0, 1, 2, 3)) == pytest.approx(2 / 6)
    assert box_overlap((0, 0, 2, 2), (5, 5, 6, 6)) == 0
    assert box_overlap((0, 0, 0, 0), (0, 0, 0, 0)) == 0


def test_overlap_of_boxes_is_that_of_their_pixels():
    random = np.random.default_rng(0)
    for _ in range(100):
        ends = np.sort(random.integers(0, 8, (2, 2, 2)), axis=1)
        ends[:, 1] += 1  # no box is empty
        painted = np.zeros((2, 9, 9), bool)
        for mask, ((top, left), (bottom, right)) in zip(painted, ends, strict=True):
            mask[top:bottom, left:right] = True
        a, b = (tuple(map(int, box.ravel())) for box in ends)
        expected = painted.all(axis=0).sum() / painted.any(axis=0).sum()
        assert box_overlap(a, b) == pytest.approx(expected)
