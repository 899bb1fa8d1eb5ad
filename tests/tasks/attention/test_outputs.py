"""`dino attention`: queries, layers, masks and their colours; as a command."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from small_vit import PATCH, SIDE, network_input, no_class_token, photo, pixels, small_vit

from dino_cli.core.network.backbone import Backbone

# Queries and layers


@pytest.mark.parametrize("point", ["40,30", "57.2%,60%"])
@pytest.mark.parametrize("layer", [0, -1])
def test_query_gives_the_attention_of_the_patch_at_the_point(attention, tmp_path, point, layer):
    path = photo(tmp_path / "cat.png")
    attention(path, "--query", point, "--layer", layer)
    row, column = int(30.5 / 50 * SIDE / PATCH), int(40.5 / 70 * (SIDE * 70 // 50) / PATCH)
    expected, _ = Backbone(small_vit()).cls_attention_and_keys(
        network_input(path), layer=layer, asking=torch.tensor([row * 8 + column])
    )
    saved = np.load("attention/cat/attention.npy")
    np.testing.assert_allclose(saved, expected[0], rtol=1e-4, atol=1e-7)
    attention(path, "--layer", layer, "-o", "of-cls")
    assert not np.allclose(saved, np.load("of-cls/cat/attention.npy"), rtol=1e-2)
    assert not np.array_equal(
        pixels("attention/cat/grid.png"), pixels("of-cls/cat/grid.png")
    )  # the point is marked


@pytest.mark.slow
def test_the_last_pixel_is_at_a_hundred_per_cent(attention, tmp_path):
    photo(tmp_path / "cat.png")
    for folder, point in {"a": "100%,100%", "b": "69,49", "c": "100%,0%", "d": "69,0"}.items():
        attention("cat.png", "--query", point, "--head", "mean", "-o", folder)
    last, same, top, other = (np.load(f"{folder}/cat/attention.npy") for folder in "abcd")
    assert np.array_equal(last, same)
    assert np.array_equal(top, other)
    attention("cat.png", "--query", "69,49", "--masks", "tokens", "-o", "e")  # another way there
    np.testing.assert_allclose(np.load("e/cat/attention.npy"), last, rtol=1e-4, atol=1e-7)
    assert not np.allclose(last, top, rtol=1e-2)


@pytest.mark.slow
def test_blocks_are_counted_from_the_end_too(attention, tmp_path):
    photo(tmp_path / "cat.png")
    for layer in (0, -2, -1):
        attention("cat.png", "--layer", layer, "--head", "mean", "-o", layer + 2)
    first, same, last = (np.load(f"{layer + 2}/cat/attention.npy") for layer in (0, -2, -1))
    assert np.array_equal(first, same)
    assert not np.allclose(first, last, rtol=1e-2)


def test_a_network_without_class_token_can_be_asked_at_a_point(attention, tmp_path):
    photo(tmp_path / "cat.png")
    options = ["cat.png", *no_class_token(tmp_path), "--image-size", 96]
    assert "--query 50%,50%" in attention(*options, code=2).stderr
    attention(*options, "--query", "50%,50%", "--masks", "tokens")
    saved = np.load("attention/cat/attention.npy")
    assert saved.shape == (3, 6, 8)
    assert (saved.sum((1, 2)) < 1).all()  # the register has its share


def test_a_point_outside_a_photo_skips_it(attention, tmp_path):
    photo(tmp_path / "in" / "large.png", (300, 200))
    photo(tmp_path / "in" / "small.png", (70, 50))
    result = json.loads(attention("in", "--query", "200,100", "--json").stdout)
    assert [row["input"] for row in result["images"]] == ["in/large.png"]
    listed = (tmp_path / "attention" / "skipped.csv").read_text()
    assert "the point 200,100 lies outside 70 x 50 pixels" in listed


@pytest.mark.parametrize("strict", [[], ["--strict"]])
def test_a_point_outside_all_photos_is_misuse(attention, tmp_path, strict):
    photo(tmp_path / "in" / "a.png", (70, 50))
    photo(tmp_path / "in" / "b.png", (90, 60))
    said = attention("in", "--query", "99999,2", *strict, code=2).stderr
    assert "'in/a.png': the point 99999,2 lies outside 70 x 50 pixels; use --query" in said
    assert not (tmp_path / "attention").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--query", "40"], "is not a point"),
        (["--query", "40,50%"], "is not a point"),
        (["--query=-4,5"], "is not a point"),
        (["--query", "101%,50%"], "outside"),
        (["--query", "50%,101%"], "outside"),
        (["--layer", "2"], "has 2 blocks, 0 to 1"),
        (["--layer", "-3"], "layer -3"),
        (["--format", "png"], "--format 'png'"),
        (["--format", ""], "--format ''"),
        (["--outline", "reddish"], "'reddish' is not a colour"),
        (["--palette", "rainbow"], "--palette"),
        (["--fps", "0"], "0 frames per second"),
    ],
)
def test_misuse(attention, tmp_path, options, message):
    assert message in attention(photo(tmp_path / "cat.png"), *options, code=2).stderr
    assert not (tmp_path / "attention").exists()


# Masks


def test_masks_from_tokens_and_their_score(attention, tmp_path):
    photo(tmp_path / "cat.png")
    result = json.loads(
        attention("cat.png", "--masks", "tokens", "--head", "mean", "--json").stdout
    )
    row = result["images"][0]
    assert 0 <= row["score"] <= 1
    assert row["guess"] == (row["score"] < 0.88)
    assert {p.name for p in (tmp_path / "attention/cat").iterdir()} == {
        "attention.npy", "grid.png", "heat_mean.png", "mask_tokens.png", "overlay_tokens.png",
    }  # fmt: skip
    assert set(np.unique(pixels("attention/cat/mask_tokens.png"))) == {0, 255}


def test_colours_of_heat_maps_and_outlines(attention, tmp_path):
    photo(tmp_path / "cat.png")
    attention("cat.png", "--head", "mean", "-o", "a")
    attention("cat.png", "--head", "mean", "-o", "b", "--palette", "grey", "--outline", "#00ff0080")
    inferno, grey = (Image.open(f"{o}/cat/heat_mean.png").convert("RGB") for o in "ab")
    assert (np.ptp(np.asarray(grey).astype(int), axis=-1) == 0).all()
    assert np.ptp(np.asarray(inferno).astype(int), axis=-1).max() > 100
    green = [
        (p[..., 1] > p[..., [0, 2]].max(-1) + 100).sum()
        for p in (pixels(f"{o}/cat/overlay_mean.png").astype(int) for o in "ab")
    ]
    assert green[0] == 0
    assert green[1] > 20
