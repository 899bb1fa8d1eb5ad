"""The guided filter, against a regression solved in every window."""

import cv2
import numpy as np
import pytest

from dino_cli.core.masks import refine
from dino_cli.core.masks.refine import cut, guided_filter, guided_mask


def _slow_guided_filter(image, guide, radius, epsilon):
    """He et al., equations 19-21, one least squares a window; borders mirrored."""
    ry, rx = radius
    pad = ((ry, ry), (rx, rx))

    def windows(values):
        padded = np.pad(values, pad + ((0, 0),) * (values.ndim - 2), mode="symmetric")
        return np.lib.stride_tricks.sliding_window_view(
            padded, (2 * ry + 1, 2 * rx + 1), axis=(0, 1)
        )

    p, i = windows(image), windows(guide)
    coefficients = np.zeros((*image.shape, 4))
    for y in range(image.shape[0]):
        for x in range(image.shape[1]):
            colours, target = i[y, x].reshape(3, -1), p[y, x].ravel()
            mean = colours.mean(1)
            spread = np.cov(colours, bias=True) + epsilon * np.eye(3)
            slope = np.linalg.solve(spread, (colours * target).mean(1) - mean * target.mean())
            coefficients[y, x] = [*slope, target.mean() - slope @ mean]
    averaged = windows(coefficients).mean(axis=(-1, -2))
    return (averaged[..., :3] * guide).sum(-1) + averaged[..., 3]


def test_guided_filter_equals_a_regression_in_every_window():
    rng = np.random.default_rng(0)
    guide = cv2.GaussianBlur(rng.random((14, 17, 3)).astype(np.float32), (0, 0), 1)
    image = rng.random((14, 17)).astype(np.float32)
    found = guided_filter(image, guide, (2, 3), 1e-3)
    expected = _slow_guided_filter(image.astype(np.float64), guide.astype(np.float64), (2, 3), 1e-3)
    np.testing.assert_allclose(found, expected, atol=2e-4)


def _photo(size=(120, 160)):
    """An orange disc on a blue ground, lightly textured, and its mask."""
    y, x = np.mgrid[: size[0], : size[1]]
    disc = (y - size[0] * 0.5) ** 2 + (x - size[1] * 0.45) ** 2 < (size[0] * 0.33) ** 2
    photo = np.where(disc[..., None], (220, 140, 40), (40, 70, 130)).astype(np.float64)
    photo += np.random.default_rng(0).normal(0, 6, photo.shape)
    return photo.clip(0, 255).astype(np.uint8), disc


def _iou(a, b):
    return (a & b).sum() / (a | b).sum()


def test_guided_mask_filters_with_one_and_a_half_patches_on_either_side():
    photo, _ = _photo((24, 30))
    patches = np.random.default_rng(0).random((3, 5)) > 0.5  # of 8 x 6 pixels
    soft = cv2.resize(patches.astype(np.float64), (30, 24), interpolation=cv2.INTER_LINEAR)
    expected = _slow_guided_filter(soft, photo / 255, (12, 9), 1e-3)
    np.testing.assert_allclose(guided_mask(patches, photo), expected, atol=2e-4)


def test_guided_mask_follows_the_photo():
    photo, disc = _photo()
    patches = disc.reshape(12, 10, 16, 10).mean(axis=(1, 3)) > 0.5
    blocks = patches.repeat(10, 0).repeat(10, 1)
    soft = guided_mask(patches, photo)
    assert soft.shape == (120, 160)
    fitted = cut(soft, (120, 160))
    assert _iou(blocks, disc) < 0.93
    assert _iou(fitted, disc) > 0.98


def test_large_photos_are_filtered_small_and_enlarged(monkeypatch):
    monkeypatch.setattr(refine, "MOST_PIXELS", 5000)
    photo, disc = _photo()
    patches = disc.reshape(12, 10, 16, 10).mean(axis=(1, 3)) > 0.5
    soft = guided_mask(patches, photo)
    assert soft.shape == (61, 82)
    assert _iou(cut(soft, (120, 160)), disc) > 0.95


def test_large_photos_are_made_small_by_means(monkeypatch):
    photo, disc = _photo()
    patches = disc.reshape(12, 10, 16, 10).mean(axis=(1, 3)) > 0.5
    photo = photo.clip(20, 235)
    sign = np.random.default_rng(1).choice([-20, 20], (120, 160))
    texture = np.kron(sign, [[1, -1], [-1, 1]])[..., None]  # of mean 0
    large = (photo.repeat(2, 0).repeat(2, 1) + texture).astype(np.uint8)
    monkeypatch.setattr(refine, "MOST_PIXELS", 120 * 160)
    np.testing.assert_allclose(guided_mask(patches, large), guided_mask(patches, photo), atol=1e-6)


def test_more_than_one_half_belongs_to_the_object():
    soft = np.float32([[0.4, 0.5, 0.51, 1.0]])
    assert cut(soft, (1, 4)).tolist() == [[False, False, True, True]]
    assert cut(soft, (1, 2)).tolist() == [[False, True]]  # .45 and .755


@pytest.mark.parametrize("value", [False, True])
def test_uniform_masks_stay_uniform(value):
    photo, _ = _photo((30, 40))
    fitted = cut(guided_mask(np.full((3, 4), value), photo), (30, 40))
    assert (fitted == value).all()


def test_tiny_photos():
    assert cut(guided_mask(np.ones((4, 4), bool), np.zeros((1, 1, 3), np.uint8)), (1, 1)).all()
