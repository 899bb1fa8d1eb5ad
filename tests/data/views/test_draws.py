"""Draws: as torchvision's where it draws the same, and from seed, epoch, image and view alone."""

import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from pil_views import SPEC
from torchvision import transforms

from dino_cli.data.views.draws import COLUMNS, draw_view, epoch_order, uniforms


def test_crops_are_distributed_as_torchvisions():
    """Means and spreads of position and size over 4,000 crops, an image wider than high."""
    torch.manual_seed(0)
    random.seed(0)
    tensor = torch.zeros(3, 60, 140)
    theirs = np.array(
        [
            transforms.RandomResizedCrop.get_params(tensor, [0.2, 0.8], [3 / 4, 4 / 3])
            for _ in range(4000)
        ],
        dtype=float,
    )
    draws = [draw_view(SPEC, uniforms(0, 0, i, 1)[0], 60, 140) for i in range(4000)]
    ours = np.array([(d.top, d.left, d.height, d.width) for d in draws], dtype=float)
    error = theirs.std(axis=0) * 5 / 4000**0.5  # five standard errors of a difference, about
    assert (np.abs(ours.mean(axis=0) - theirs.mean(axis=0)) < 1.5 * error).all()
    assert ours.std(axis=0) == pytest.approx(theirs.std(axis=0), rel=0.06)
    assert (ours[:, 0] + ours[:, 2]).max() <= 60
    assert (ours[:, 1] + ours[:, 3]).max() <= 140


@pytest.mark.parametrize("size", [32, (8, 64), (64, 8)])
@pytest.mark.parametrize(("height", "width"), [(5, 400), (400, 5), (1, 1), (2, 2)])
def test_extreme_shapes_fall_back_to_a_central_crop(height, width, size):
    wide = replace(SPEC, size=size, scale=(1, 1))
    draw = draw_view(wide, uniforms(0, 0, 0, 1)[0], height, width)
    assert draw.top == (height - draw.height) // 2
    assert draw.left == (width - draw.width) // 2
    assert draw.height >= 1
    assert draw.width >= 1
    # As much of the picture as has 3/4 to 4/3 of the view's aspect.
    aspect = 1 if size == 32 else size[1] / size[0]
    whole = min(max(width / height, aspect * 3 / 4), aspect * 4 / 3)
    assert draw.width == max(1, round(min(width, height * whole)))
    assert draw.height == max(1, round(min(height, width / whole)))
    if size == 32:
        params = transforms.RandomResizedCrop.get_params(
            torch.zeros(3, height, width), [1, 1], [3 / 4, 4 / 3]
        )
        assert (draw.top, draw.left, draw.height, draw.width) == params


def test_probabilities_ranges_and_orders():
    draws = [draw_view(SPEC, uniforms(7, 1, i, 1)[0], 100, 100) for i in range(6000)]
    share = {
        "flip": (np.mean([d.flip for d in draws]), 0.5),
        "jitter": (np.mean([bool(d.jitter) for d in draws]), 0.8),
        "grey": (np.mean([d.grayscale for d in draws]), 0.2),
        "blur": (np.mean([d.sigma > 0 for d in draws]), 0.5),
        "solarise": (np.mean([d.solarize for d in draws]), 0.2),
        "both": (np.mean([d.grayscale and d.solarize for d in draws]), 0.04),
    }
    for name, (measured, expected) in share.items():
        assert measured == pytest.approx(expected, abs=0.025), name
    sigmas = [d.sigma for d in draws if d.sigma > 0]
    assert (min(sigmas), max(sigmas)) == pytest.approx((0.1, 2.0), abs=0.01)
    orders = {tuple(name for name, _ in d.jitter) for d in draws if d.jitter}
    assert len(orders) == 24
    factors = [dict(d.jitter) for d in draws if d.jitter]
    for name, (low, high) in {"brightness": (0.6, 1.4), "hue": (-0.1, 0.1)}.items():
        values = [f[name] for f in factors]
        assert (min(values), max(values)) == pytest.approx((low, high), abs=0.005)


def test_a_strength_above_one_makes_no_negative_of_a_picture():
    strong = replace(SPEC, jitter=(1.5, 1.5, 1.5, 0.0), jitter_prob=1.0)
    draws = [draw_view(strong, uniforms(0, 0, i, 1)[0], 50, 50) for i in range(50)]
    factors = [factor for draw in draws for _, factor in draw.jitter]
    assert len(factors) == 150
    assert 0 <= min(factors) < 0.1
    assert 2.4 < max(factors) <= 2.5


def test_a_draw_depends_on_seed_epoch_image_and_view_alone():
    a = uniforms(3, 4, 5, 10)
    assert a.shape == (10, COLUMNS)
    assert np.array_equal(uniforms(3, 4, 5, 2), a[:2])
    for other in (uniforms(2, 4, 5, 10), uniforms(3, 5, 5, 10), uniforms(3, 4, 6, 10)):
        assert not np.array_equal(other, a)


def test_draws_are_those_of_earlier_versions():
    """Numbers that were drawn once: a run that an older version began sees what it would have."""
    assert epoch_order(8, 3, 2).tolist() == [1, 7, 4, 0, 2, 6, 3, 5]
    # The second view of each, of a picture of 100 × 140 pixels.
    for image, expected in (
        (0, (3, 43, 84, 73, True, (("contrast", 0.61439), ("saturation", 0.97179),
                                      ("hue", -0.07532), ("brightness", 1.30252)), 1.11003)),
        (5, (15, 48, 77, 70, False, (("hue", 0.09028), ("saturation", 1.14879),
                                        ("contrast", 0.61666), ("brightness", 0.60718)), 1.59607)),
        (6, (1, 37, 99, 79, False, (), 0.0)),
        (58, (12, 33, 79, 67, False, (("saturation", 1.10024), ("brightness", 1.01673),
                                      ("contrast", 1.26311), ("hue", -0.09952)), 0.0)),
    ):  # fmt: skip
        draw = draw_view(SPEC, uniforms(3, 2, image, 2)[1], 100, 140)
        *crop, jitter, sigma = expected
        assert [draw.top, draw.left, draw.height, draw.width, draw.flip] == crop
        assert [name for name, _ in draw.jitter] == [name for name, _ in jitter]
        factors = [factor for _, factor in draw.jitter]
        assert factors == pytest.approx([factor for _, factor in jitter], abs=1e-5)
        assert draw.sigma == pytest.approx(sigma, abs=1e-5)
        assert (draw.grayscale, draw.solarize) == (image == 58, image == 58)
