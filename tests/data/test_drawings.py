"""The drawn images: reproducible, resolution-independent, with a mask one can trust."""

from __future__ import annotations

import os
from collections.abc import Sequence

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from dino_cli.data.drawings.images import CLASSES, Drawing, draw, union_mask
from dino_cli.data.drawings.processes import side_by_side
from dino_cli.data.drawings.shapes import SHAPES, shape
from dino_cli.data.drawings.textures import TEXTURES, fractal, hsv, patchwork, texture
from dino_cli.errors import TaskError


@pytest.fixture(scope="module")
def drawings() -> Sequence[Drawing]:
    return [draw(7, i) for i in range(100)]


def chroma(image: NDArray[np.uint8]) -> NDArray[np.float64]:
    """How far from grey, (S, S) in [0, 255]."""
    return np.asarray(np.ptp(image, axis=2), np.float64)


def distance(a: Drawing, b: Drawing) -> float:
    return float(np.abs(a.image.astype(float) - b.image).mean())


# --- what one gets -----------------------------------------------------------------------------


@pytest.mark.parametrize("size", [16, 33, 96])
def test_shapes_and_types(size: int) -> None:
    drawing = draw(0, 3, size)
    assert drawing.image.shape == (size, size, 3)
    assert drawing.image.dtype == np.uint8
    assert drawing.mask.shape == (size, size)
    assert drawing.mask.dtype == np.bool_
    assert isinstance(drawing.label, int)


def test_labels_cycle_through_ten_classes(drawings: Sequence[Drawing]) -> None:
    assert [d.label for d in drawings] == [i % 10 for i in range(100)]
    assert len(CLASSES) == len(set(CLASSES)) == 10
    assert all(name.isascii() and name.isalpha() and name.islower() for name in CLASSES)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"seed": -1}, "must not be negative"),
        ({"index": -5}, "must not be negative, but they are 0 and -5"),
        ({"size": 15}, "size=15 is too small"),
        ({"style": "late"}, "style='late' is unknown"),
        ({"backgrounds": "all"}, "backgrounds='all' is unknown"),
    ],
)
def test_impossible_arguments_are_named(arguments: dict[str, object], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        draw(**{"seed": 0, "index": 0, **arguments})  # type: ignore[arg-type]


# --- reproducible ------------------------------------------------------------------------------


def test_same_arguments_same_picture_in_any_order(drawings: Sequence[Drawing]) -> None:
    np.random.seed(1)  # the global generator plays no part
    for i in (42, 3, 99, 0):
        again = draw(7, i)
        np.testing.assert_array_equal(again.image, drawings[i].image)
        np.testing.assert_array_equal(again.mask, drawings[i].mask)


def test_every_argument_changes_the_picture() -> None:
    base = draw(7, 4)
    others = [draw(8, 4), draw(7, 14), draw(7, 4, style="early"), draw(7, 4, backgrounds="unseen")]
    assert all(distance(base, other) > 10 for other in others)


def test_another_size_is_the_same_composition() -> None:
    for i in range(10):
        small, large = draw(5, i, 96), draw(5, i, 192)
        doubled = small.mask.repeat(2, 0).repeat(2, 1)
        assert (doubled & large.mask).sum() / (doubled | large.mask).sum() > 0.92
        halved = cv2.resize(large.image, (96, 96), interpolation=cv2.INTER_AREA).astype(float)
        # Sigma 5 against sigma 2.5 of pixel noise alone is a mean difference of 4.5.
        assert np.abs(halved - small.image).mean() < 8


# --- the mask ----------------------------------------------------------------------------------


def test_object_sizes_are_plausible(drawings: Sequence[Drawing]) -> None:
    shares = np.array([d.mask.mean() for d in drawings])
    assert shares.min() > 0.06
    assert shares.max() < 0.45
    assert 0.15 < shares.mean() < 0.25


def test_most_of_the_object_is_inside(drawings: Sequence[Drawing]) -> None:
    edges = [np.r_[d.mask[0], d.mask[-1], d.mask[:, 0], d.mask[:, -1]].mean() for d in drawings]
    assert np.mean(edges) < 0.06
    assert np.mean([edge == 0 for edge in edges]) > 0.4


@pytest.mark.parametrize("name", SHAPES)
def test_mask_is_the_union_of_the_polygons(name: str) -> None:
    size, parts = 128, shape(name)
    placed = np.array([[-0.7, 0.1, 0.8], [0.05, 0.75, 0.1]])
    mask = union_mask(parts, placed, size)

    # Even-odd rule at every pixel's centre, polygon by polygon.
    expected = np.zeros((size, size), bool)
    x, y = np.meshgrid(*[(np.arange(size) + 0.5) / size] * 2)
    for part in parts:
        corners = part.points @ placed[:, :2].T + placed[:, 2]
        odd = np.zeros((size, size), bool)
        for (x0, y0), (x1, y1) in zip(corners, np.roll(corners, -1, 0), strict=True):
            if y0 != y1:
                odd ^= ((y0 > y) != (y1 > y)) & (x < x0 + (y - y0) / (y1 - y0) * (x1 - x0))
        expected |= odd
    assert (mask & expected).sum() / (mask | expected).sum() > 0.965
    assert 0.99 < mask.sum() / expected.sum() < 1.03


@pytest.mark.parametrize("name", SHAPES)
def test_objects_fill_their_unit_square(name: str) -> None:
    parts = shape(name)
    assert 4 <= len(parts) <= 14
    corners = np.concatenate([part.points for part in parts])
    assert corners.min() > -0.05
    assert corners.max() < 1.05
    assert np.ptp(corners, axis=0).max() > 0.9
    assert any(part.pattern for part in parts)


# --- how it looks ------------------------------------------------------------------------------


@pytest.mark.parametrize("style", ["early", "final"])
def test_objects_are_vivid_and_backgrounds_dull(style: str) -> None:
    vivid, dull = [], []
    for i in range(30):
        drawing = draw(11, i, 48, style=style)  # type: ignore[arg-type]
        around = cv2.dilate(drawing.mask.astype(np.uint8), np.ones((5, 5), np.uint8)) == 0
        vivid.append(chroma(drawing.image)[drawing.mask].mean())
        dull.append(chroma(drawing.image)[around].mean())
    assert np.mean(vivid) > 2.5 * np.mean(dull)
    assert np.mean(dull) < 45


@pytest.mark.parametrize("backgrounds", ["seen", "unseen"])
def test_backgrounds_have_low_saturation_throughout(backgrounds: str) -> None:
    for seed in range(10):
        image = patchwork(np.random.default_rng(seed), 64, backgrounds)  # type: ignore[arg-type]
        assert (chroma(image) / image.max(2)).max() < 0.40  # .35, and rounding in dark places
        assert len(np.unique(image.reshape(-1, 3), axis=0)) > 20


@pytest.mark.parametrize("name", [*TEXTURES["seen"], *TEXTURES["unseen"]])
def test_textures_vary_within_zero_and_one(name: str) -> None:
    for seed in range(5):
        rng = np.random.default_rng(seed)
        field = texture(name, rng, fractal(rng, 64, 1)[..., 0])
        assert field.shape == (64, 64)
        assert field.dtype == np.float32
        assert field.min() >= 0
        assert field.max() <= 1
        assert field.std() > 0.05


def test_unseen_backgrounds_share_no_texture_with_the_seen() -> None:
    assert not set(TEXTURES["seen"]) & set(TEXTURES["unseen"])
    with pytest.raises(ValueError, match="no texture is called 'tartan'"):
        texture("tartan", np.random.default_rng(0), np.zeros((8, 8), np.float32))


def test_early_drawings_have_no_pattern_and_half_of_them_no_outline() -> None:
    def dark_share(style: str) -> NDArray[np.float64]:
        pictures = [draw(2, i, 128, style=style) for i in range(9, 200, 10)]  # type: ignore[arg-type]
        return np.array([(d.image.max(2) < 50)[d.mask].mean() for d in pictures])

    early, final = dark_share("early"), dark_share("final")  # cats: their stripes are dark
    assert final.min() > early.max()
    plain = early < (early.min() + early.max()) / 2
    assert 0.2 < plain.mean() < 0.8


def test_final_colours_follow_from_one_hue() -> None:
    for hue in np.linspace(0, 1, 13):
        np.testing.assert_allclose(hsv(hue, 0, 0.5), 127.5)
        red, green, blue = hsv(hue, 1, 1) / 255
        expected = cv2.cvtColor(np.array([[[red, green, blue]]], np.float32), cv2.COLOR_RGB2HSV)
        turn = abs(expected[0, 0, 0] / 360 - hue) % 1
        assert min(turn, 1 - turn) < 1e-5


def test_a_process_that_dies_is_a_sentence() -> None:
    with pytest.raises(TaskError, match="a process that draws died"):
        list(side_by_side(os._exit, [1, 1], 2))


def test_processes_give_what_one_gives_in_the_order_of_the_jobs() -> None:
    assert list(side_by_side(abs, range(-9, 1), 2, chunk=4)) == list(range(9, -1, -1))
