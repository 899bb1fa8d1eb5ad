"""Draws and views against torchvision and PIL, stage by stage and as a distribution."""

import random
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter
from pil_views import SPEC, pil_view
from torchvision import transforms
from torchvision.transforms import functional as F

from dino_cli.config.shared import Preprocessing
from dino_cli.data.views.batches import BatchPlan, ViewSchedule, normalize_views
from dino_cli.data.views.draws import COLUMNS, ViewDraw, ViewSpec, draw_view, uniforms
from dino_cli.data.views.pack import pack_photos, take_photo
from dino_cli.data.views.render import render_view
from dino_cli.data.views.render_batch import render_batch, render_views

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


def test_the_oracle_equals_torchvision(photo):
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
        assert np.array_equal(pil_view(photo, draw), np.asarray(expected)), name


# Largest and mean difference from PIL in grey levels, on the same crop or after the same stages.
TOLERANCES = {
    "crop": (PLAIN, 2, 0.1),
    "flip": (changed(flip=True), 2, 0.1),
    "brightness": (changed(jitter=(("brightness", 1.3),)), 3, 0.15),
    "contrast": (changed(jitter=(("contrast", 0.7),)), 2, 0.15),
    "saturation": (changed(jitter=(("saturation", 1.2),)), 3, 0.2),
    "grey": (changed(grayscale=True), 2, 0.1),
    "blur": (changed(sigma=1.4), 3, 0.6),
    "solarise": (changed(solarize=True), 2, 0.1),
}


@pytest.mark.parametrize("name", TOLERANCES)
@pytest.mark.parametrize("batched", [False, True])
def test_each_stage_is_within_grey_levels_of_pil(photo, name, batched):
    draw, most, mean = TOLERANCES[name]
    pixels = np.asarray(photo)
    ours = batched_view(pixels, draw) if batched else render_view(pixels, draw)
    difference = np.abs(ours.astype(float) - pil_view(photo, draw))
    if name == "solarise":  # levels 127 and 128 lie far apart afterwards
        difference = np.minimum(difference, 255 - difference)
        assert (difference <= most).mean() > 0.98
        return
    assert difference.max() <= most
    assert difference.mean() <= mean


@pytest.mark.parametrize("batched", [False, True])
def test_hue_is_within_grey_levels_of_pil_but_for_rounding(photo, batched):
    """PIL's 8-bit hue jumps where two colours are equal; nearly all pixels agree."""
    for factor in (0.1, -0.37):
        draw = changed(jitter=(("hue", factor),))
        pixels = np.asarray(photo)
        ours = batched_view(pixels, draw) if batched else render_view(pixels, draw)
        difference = np.abs(ours.astype(float) - pil_view(photo, draw))
        assert difference.mean() <= 1.0
        assert (difference <= 6).mean() > 0.99


def test_views_of_a_batch_are_those_of_single_photos(photo):
    """Photos of other sizes beside each other, in the drawn order of stages, view-major."""
    photos = [np.asarray(photo), np.asarray(photo.resize((61, 80))), np.asarray(photo)[:40, ::-1]]
    specs = [[SPEC, SPEC], [ViewSpec(**{**asdict(SPEC), "size": 16})] * 3]
    groups = []
    for i, pixels in enumerate(photos):
        u = uniforms(0, 0, i, 5)
        height, width = pixels.shape[:2]
        two, three = u[:2], u[2:]
        groups.append(
            [
                [draw_view(spec, row, height, width) for spec, row in zip(some, rows, strict=True)]
                for some, rows in zip(specs, (two, three), strict=True)
            ]
        )
    packed = pack_photos(
        [take_photo(np.ascontiguousarray(p), g) for p, g in zip(photos, groups, strict=True)], []
    )
    rendered = render_batch(packed, torch.device("cpu"))
    assert [tuple(group.shape) for group in rendered] == [(6, 3, 32, 32), (9, 3, 16, 16)]
    for g, views in enumerate(rendered):
        for row in range(len(views)):
            v, b = divmod(row, len(photos))
            alone = render_view(np.ascontiguousarray(photos[b]), groups[b][g][v])
            difference = np.abs(views[row].permute(1, 2, 0).numpy() - alone)
            assert (difference <= 8).mean() > 0.97, (g, v, b)


def test_normalised_views_of_a_batch_are_as_those_of_the_workers(photo):
    """(grey level / 255 - mean) / deviation, whoever made them."""
    pixels = np.array(photo)
    draws = [draw_view(SPEC, u, *pixels.shape[:2]) for u in uniforms(0, 0, 0, 2)]
    single = torch.from_numpy(np.stack([render_view(pixels, draw) for draw in draws]))
    p, device = Preprocessing(mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4)), torch.device("cpu")
    (views,) = render_views(pack_photos([take_photo(pixels, [draws])], []), p, device)
    difference = (views - normalize_views(single[None], p, device)).abs()
    assert (difference <= 8 / 255 / 0.2).float().mean() > 0.97


def batched_view(pixels, draw):
    packed = pack_photos([take_photo(pixels, [[draw]])], [])
    return render_batch(packed, torch.device("cpu"))[0][0].permute(1, 2, 0).numpy()


@pytest.mark.slow
def test_statistics_of_views_are_pils(photo):
    """Means, spreads and channel covariances over 400 draws of ten views, and of their blur."""
    pixels = np.asarray(photo)
    theirs, ours, batched = [], [], []
    for i in range(400):
        draw = draw_view(SPEC, uniforms(5, 0, i, 1)[0], *pixels.shape[:2])
        theirs.append(pil_view(photo, draw))
        ours.append(render_view(pixels, draw))
        batched.append(batched_view(pixels, draw))

    def statistics(views):
        x = np.stack(views).astype(float)
        flat = x.reshape(-1, 3)
        detail = np.abs(np.fft.rfft2(x.mean(axis=-1))).mean(axis=0)
        return flat.mean(axis=0), np.cov(flat.T), detail.mean(), detail[8:24, 8:].mean()

    for name, views in (("cpu", ours), ("batched", batched)):
        for a, b in zip(statistics(theirs), statistics(views), strict=True):
            assert b == pytest.approx(a, rel=0.02, abs=2.0), name


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


def test_plan_shows_each_image_once_per_epoch_whatever_the_ranks():
    def seen(batch, ranks, accumulate):
        plans = [
            BatchPlan(
                images=50, epochs=2, batch=batch, seed=1, accumulate=accumulate,
                rank=rank, ranks=ranks,
            )
            for rank in range(ranks)
        ]  # fmt: skip
        steps = []
        for step in range(plans[0].steps):
            micro = [list(plan.micro_batches(step, step + 1)) for plan in plans]
            keys = [key for m in range(accumulate) for rank in micro for key in rank[m]]
            assert {key.progress for key in keys} == {step / 6}  # of the whole run
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
    assert schedule.at(0.9)[0][0].size == 64
    assert schedule.at(0.0)[0][0].grayscale_prob == pytest.approx(0.1)
    without = replace(schedule, globals_=(replace(SPEC, solarize_prob=0.0), SPEC), start=(0.5,) * 6)
    assert [spec.solarize_prob for spec in without.at(0.0)[0]] == [0, 0.5]


def test_rectangular_views_equal_pils_and_distort_no_more_than_square_ones(photo):
    """Height before width; the crop's aspect is 3/4 to 4/3 of the view's."""
    pixels = np.asarray(photo)
    spec = ViewSpec(**{**asdict(SPEC), "size": (40, 16), "scale": (0.1, 0.2)})
    draws = [draw_view(spec, uniforms(0, 0, i, 1)[0], *pixels.shape[:2]) for i in range(200)]
    aspects = np.array([d.width / d.height for d in draws]) / (16 / 40)
    assert aspects.min() > 0.68
    assert aspects.max() < 1.45
    assert aspects.max() / aspects.min() > 1.5
    for draw in [
        changed(size=(40, 16), sigma=1.4, flip=True),
        changed(size=(16, 40), jitter=(("brightness", 1.2),)),
    ]:
        theirs = pil_view(photo, draw).astype(float)
        assert theirs.shape == (*draw.shape, 3)
        for ours in (render_view(pixels, draw), batched_view(pixels, draw)):
            assert ours.shape == theirs.shape
            assert np.abs(ours - theirs).max() <= 3
    large = np.tile(pixels, (9, 9, 1))  # sent as crops that are ready
    draw = changed(size=(40, 16), flip=True, top=100, left=200, height=200, width=80)
    theirs = pil_view(Image.fromarray(large), draw).astype(float)
    assert np.abs(batched_view(large, draw) - theirs).max() <= 3
