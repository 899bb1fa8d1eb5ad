"""Draws and views against torchvision and PIL, stage by stage and as a distribution."""

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
from dino_cli.data.views.draws import ViewDraw, ViewSpec, draw_view, uniforms
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
    """Photos of other sizes beside each other, in the drawn order of stages, view-major; large ones
    are sent as crops."""
    photos = [np.asarray(photo), np.asarray(photo.resize((61, 80))), np.asarray(photo)[:40, ::-1]]
    large = np.tile(photos[0], (2, 2, 1))
    photos = [large, photos[0], large[::-1, :130], *photos[1:], large[:50, :180], large[:140, :60]]
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
    blocks = [(3, 128, 128), (1, 128, 256), (1, 256, 128)]
    assert (packed.blocks, packed.ready) == (blocks, 2)
    assert [tuple(group.shape) for group in rendered] == [(14, 3, 32, 32), (21, 3, 16, 16)]
    for g, views in enumerate(rendered):
        for row in range(len(views)):
            v, b = divmod(row, len(photos))
            alone = render_view(np.ascontiguousarray(photos[b]), groups[b][g][v])
            difference = np.abs(views[row].permute(1, 2, 0).numpy() - alone)
            assert (difference <= 8).mean() > 0.97, (g, v, b)


def test_a_block_is_rendered_in_as_many_parts_as_memory_wants(photo, monkeypatch):
    pixels = np.asarray(photo)
    draws = [
        [draw_view(SPEC, u, *pixels.shape[:2]) for u in uniforms(0, 0, i, 2)] for i in range(5)
    ]
    shifted = [np.roll(pixels, 10 * i, axis=1) for i in range(5)]
    photos = [take_photo(p, [two]) for p, two in zip(shifted, draws, strict=True)]
    packed, device = pack_photos(photos, []), torch.device("cpu")
    (whole,) = render_batch(packed, device)
    for photos_at_once in (2, 1):
        product = 2 * 32 * 3 * 128 * photos_at_once
        monkeypatch.setattr("dino_cli.data.views.render_batch.LARGEST", product)
        assert torch.equal(render_batch(packed, device)[0], whole)


@pytest.mark.parametrize("batched", [False, True])
def test_every_level_is_changed_exactly_as_by_pil(batched):
    """All 256 in a picture that is not resampled; and black beside white stays within them."""
    levels = np.repeat(np.arange(256, dtype=np.uint8).reshape(16, 16, 1), 3, axis=2)
    place = {"size": 16, "top": 0, "left": 0, "height": 16, "width": 16}
    render = batched_view if batched else render_view
    for change in (
        {"solarize": True},
        {"jitter": (("brightness", 1.3),)},
        {"jitter": (("contrast", 0.7),)},
        {"jitter": (("contrast", 1.6),)},
    ):
        draw = changed(**place, **change)
        assert np.array_equal(render(levels, draw), pil_view(Image.fromarray(levels), draw)), change
    noise = np.random.default_rng(0).integers(0, 2, (60, 60, 1), dtype=np.uint8)
    stark = np.repeat(255 * noise, 3, axis=2)
    draw = changed(top=10, left=10, height=11, width=9)
    difference = np.abs(render(stark, draw).astype(float) - pil_view(Image.fromarray(stark), draw))
    assert difference.max() <= 2


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
