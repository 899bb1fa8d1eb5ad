"""Connected parts with scores."""

import numpy as np
import pytest

from dino_cli.core.masks.instances import connected_parts


def _mask():
    mask = np.zeros((8, 10), bool)
    mask[1:4, 1:4] = True  # 9 pixels
    mask[5:7, 6:8] = mask[7, 8] = True  # 5 pixels, joined at a corner
    mask[0, 9] = True
    return mask


def test_parts_are_numbered_from_the_surest_and_specks_are_dropped():
    certainty = np.full((8, 10), 0.25, np.float32)
    certainty[4:] = 0.75
    parts = connected_parts(_mask(), certainty, smallest=2)
    assert parts.scores == (0.75, 0.25)
    assert parts.mask(1).sum() == 5
    assert parts.mask(2).sum() == 9
    assert parts.labels[0, 9] == 0
    assert np.array_equal((parts.labels > 0) | (np.arange(80).reshape(8, 10) == 9), _mask())


def test_the_largest_part_stays_however_small():
    parts = connected_parts(_mask(), np.ones((4, 5), np.float32), smallest=1000)
    assert parts.scores == (1.0,)
    assert parts.mask(1).sum() == 9


def test_scores_are_means_over_patches():
    certainty = np.zeros((4, 5), np.float32)
    certainty[1, 1] = 1  # pixels 2-3, of which the part of 9 has all four
    parts = connected_parts(_mask(), certainty, smallest=2)
    assert parts.scores == (pytest.approx(4 / 9, abs=1e-4), 0.0)


def test_nothing_has_no_parts():
    parts = connected_parts(np.zeros((3, 4), bool), np.ones((3, 4), np.float32), smallest=1)
    assert parts.scores == ()
    assert not parts.labels.any()
