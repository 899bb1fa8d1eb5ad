"""The numbers that `dino demo` shows, against cases one can check by eye."""

import numpy as np
import pytest
import torch

from dino_cli.data.drawings.sets import Series, draw_sets
from dino_cli.tasks.demo.scores import (
    MaskScore,
    best_box,
    chroma,
    classify,
    histograms,
    iou,
    on_object,
)


def test_histograms_count_colours():
    red, blue = np.zeros((2, 4, 4, 3), np.uint8)
    red[..., 0], blue[..., 2] = 255, 255
    half = red.copy()
    half[:2] = blue[:2]
    found = histograms(np.stack([red, blue, half]))
    assert found.shape == (3, 512)
    assert found.dtype == np.float32
    assert found @ found.T == pytest.approx(
        np.array([[1, 0, 0.5**0.5], [0, 1, 0.5**0.5], [0.5**0.5, 0.5**0.5, 1]]), abs=1e-6
    )
    # Position does not count; brightness within one of the eight levels neither.
    assert np.array_equal(histograms(half[None, ::-1]), histograms(half[None]))
    dark = np.zeros((1, 4, 4, 3), np.uint8)
    assert np.array_equal(histograms(dark), histograms(dark + np.uint8(31)))
    assert not np.array_equal(histograms(dark), histograms(dark + np.uint8(32)))


def test_the_best_centred_box_of_masks_that_are_one():
    masks = np.zeros((3, 32, 32), bool)
    masks[:, 8:24, 12:20] = True
    (height, width), overlaps = best_box(masks)
    assert (height, width) == (16, 8)
    assert overlaps.tolist() == [1, 1, 1]


def test_the_best_centred_box_against_trying_all():
    masks = draw_sets([Series(seed=5, count=6, size=32)])[0].masks
    (height, width), overlaps = best_box(masks)

    def mean_iou(h, w):
        box = np.zeros((32, 32), bool)
        top, left = (32 - h) // 2, (32 - w) // 2
        box[top : top + h, left : left + w] = True
        return np.mean([(box & m).sum() / (box | m).sum() for m in masks])

    even = range(2, 33, 2)
    assert overlaps.mean().item() == pytest.approx(max(mean_iou(h, w) for h in even for w in even))
    assert overlaps.mean().item() == pytest.approx(mean_iou(height, width))


def test_overlap_is_counted_in_pixels():
    maps = torch.tensor([[[[0.7, 0.1], [0.1, 0.1]], [[0.4, 0.4], [0.1, 0.1]]]])  # N, M, h, w
    truth = np.zeros((1, 8, 8), bool)
    truth[0, :4, :2] = True  # half of the first patch
    found = iou(maps, truth)
    assert found.shape == (1, 2)
    assert found[0].tolist() == pytest.approx([8 / 16, 8 / 32])
    score = MaskScore.of(found[0])
    assert (score.iou, score.found) == (pytest.approx(0.375), 50.0)


def test_a_mask_grows_with_the_share_of_the_map_that_it_keeps():
    maps = torch.tensor([[[[0.5, 0.3], [0.2, 0.0]]]])
    truth = np.zeros((1, 8, 8), bool)
    truth[0, :, :4] = True  # the left half: 70 % of the map
    found = [iou(maps, truth, share).item() for share in (0.5, 0.6, 0.9)]
    assert found == pytest.approx([16 / 32, 16 / 48, 32 / 48])
    assert on_object(maps, truth).tolist() == [[pytest.approx(0.7)]]
    truth[0, :, :2] = False  # half of the same patches
    assert on_object(maps, truth).tolist() == [[pytest.approx(0.35)]]


def test_chroma_finds_the_colourful_patch():
    image = np.full((1, 8, 8, 3), 120, np.uint8)
    image[0, 4:, :4] = (200, 20, 20)
    assert chroma(image, 4)[0, 0].tolist() == [[0, 0], [180, 0]]


def test_neighbours_vote():
    bank = np.array([[1, 0], [0.9, 0.1], [0, 1]], np.float32)
    found = classify(
        bank, np.array([0, 0, 1]), np.array([[2, 0], [0, 3]], np.float32), np.array([0, 1])
    )
    assert found.top1 == 100
    assert found.rows[:, 0].tolist() == [0, 2]
    wrong = classify(bank, np.array([0, 0, 1]), np.array([[2, 0]], np.float32), np.array([1]))
    assert wrong.top1 == 0
