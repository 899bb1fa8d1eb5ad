"""Draws and views against torchvision, stage by stage and as a distribution."""

import random

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter
from torchvision import transforms
from torchvision.transforms import functional as F

from dino_cli.data.crops import Plan, ViewSchedule
from dino_cli.data.draws import COLUMNS, ViewDraw, ViewSpec, draw_view, uniforms
from dino_cli.data.views import render_view

SPEC = ViewSpec(
    size=32,
    scale=(0.2, 0.8),
    jitter=(0.4, 0.4, 0.2, 0.1),
    jitter_prob=0.8,
    grayscale_prob=0.2,
    blur_prob=0.5,
    solarize_prob=0.2,
)
PLAIN = ViewDraw(
    size=32, top=5, left=9, height=40, width=50, flip=False, jitter=(), grayscale=False,
    sigma=0.0, solarize=False,
)  # fmt: skip


@pytest.fixture(scope="module")
def photo():
    rng = np.random.default_rng(0)
    coarse = Image.fromarray(rng.integers(0, 256, (9, 13, 3), dtype=np.uint8))
    return coarse.resize((97, 71), Image.Resampling.BICUBIC)


def changed(**values):
    return ViewDraw(**{**{f: getattr(PLAIN, f) for f in PLAIN.__slots__}, **values})


def test_each_stage_equals_torchvision(photo):
    crop = F.resized_crop(
        photo, 5, 9, 40, 50, [32, 32], interpolation=transforms.InterpolationMode.BICUBIC
    )
    cases = {
        "crop": (PLAIN, crop),
        "flip": (changed(flip=True), F.hflip(crop)),
        "brightness": (
            changed(jitter=(("brightness", 1.3),)), F.adjust_brightness(crop, 1.3)
        ),
        "contrast": (changed(jitter=(("contrast", 0.7),)), F.adjust_contrast(crop, 0.7)),
        "saturation": (changed(jitter=(("saturation", 1.2),)), F.adjust_saturation(crop, 1.2)),
        "hue up": (changed(jitter=(("hue", 0.1),)), F.adjust_hue(crop, 0.1)),
        "hue down": (changed(jitter=(("hue", -0.37),)), F.adjust_hue(crop, -0.37)),
        "grey": (changed(grayscale=True), F.to_grayscale(crop, 3)),
        "blur": (changed(sigma=1.4), crop.filter(ImageFilter.GaussianBlur(1.4))),
        "solarise": (changed(solarize=True), F.solarize(crop, 128)),
        "order": (
            changed(jitter=(("hue", 0.2), ("contrast", 1.4)), sigma=0.8, solarize=True),
            F.solarize(
                F.adjust_contrast(F.adjust_hue(crop, 0.2), 1.4).filter(
                    ImageFilter.GaussianBlur(0.8)
                ),
                128,
            ),
        ),
    }  # fmt: skip
    for name, (draw, expected) in cases.items():
        assert np.array_equal(render_view(photo, draw), np.asarray(expected)), name


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


@pytest.mark.parametrize(("height", "width"), [(5, 400), (400, 5), (1, 1)])
def test_extreme_shapes_fall_back_to_a_central_crop(height, width):
    wide = ViewSpec(**{**{f: getattr(SPEC, f) for f in SPEC.__dataclass_fields__}, "scale": (1, 1)})
    draw = draw_view(wide, uniforms(0, 0, 0, 1)[0], height, width)
    assert draw.top == (height - draw.height) // 2
    assert draw.left == (width - draw.width) // 2
    assert draw.height >= 1
    assert draw.width >= 1


def test_probabilities_ranges_and_orders():
    draws = [draw_view(SPEC, uniforms(7, 1, i, 1)[0], 100, 100) for i in range(6000)]
    share = {
        "flip": (np.mean([d.flip for d in draws]), 0.5),
        "jitter": (np.mean([bool(d.jitter) for d in draws]), 0.8),
        "grey": (np.mean([d.grayscale for d in draws]), 0.2),
        "blur": (np.mean([d.sigma > 0 for d in draws]), 0.5),
        "solarise": (np.mean([d.solarize for d in draws]), 0.2),
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


def test_a_draw_depends_on_seed_epoch_image_and_view_alone():
    a = uniforms(3, 4, 5, 10)
    assert a.shape == (10, COLUMNS)
    assert np.array_equal(uniforms(3, 4, 5, 2), a[:2])
    for other in (uniforms(2, 4, 5, 10), uniforms(3, 5, 5, 10), uniforms(3, 4, 6, 10)):
        assert not np.array_equal(other, a)


def test_plan_shows_each_image_once_per_epoch_whatever_the_ranks():
    def seen(batch, ranks, accumulate):
        plans = [
            Plan(
                images=50, epochs=2, batch=batch, seed=1, accumulate=accumulate,
                rank=rank, ranks=ranks,
            )
            for rank in range(ranks)
        ]  # fmt: skip
        steps = []
        for step in range(plans[0].steps):
            micro = [list(plan.micro_batches(step, step + 1)) for plan in plans]
            keys = [key for m in range(accumulate) for rank in micro for key in rank[m]]
            steps.append([(key.image, key.epoch) for key in keys])
        return steps

    one = seen(16, 1, 1)
    assert len(one) == 6  # 50 // 16 = 3 steps per epoch; the partial batch is dropped
    first = [image for step in one[:3] for image, _ in step]
    assert len(set(first)) == len(first) == 48
    assert seen(8, 2, 1) == one
    assert seen(4, 2, 2) == one
    assert first != [image for step in one[3:] for image, _ in step]


def test_colours_ramp_and_the_last_part_is_larger():
    schedule = ViewSchedule(
        globals_=(SPEC, SPEC), locals_=(SPEC,), ramp=0.5, start=(0.1, 0.1, 0.1, 0.0, 0.1, 0.0),
        final_size=(64, 48), final_share=0.1,
    )  # fmt: skip
    at_start, half_way, late = (schedule.at(p) for p in (0.0, 0.25, 0.95))
    assert at_start[0][0].jitter == pytest.approx((0.1, 0.1, 0.1, 0.0))
    assert half_way[0][0].jitter == pytest.approx((0.25, 0.25, 0.15, 0.05))
    assert late[0][0].jitter == pytest.approx(SPEC.jitter)
    assert (at_start[0][0].solarize_prob, late[0][0].solarize_prob) == (0, SPEC.solarize_prob)
    assert [group[0].size for group in at_start] == [32, 32]
    assert [group[0].size for group in late] == [64, 48]
