"""`dino attention`, through the command line, on small photos: what is computed and written."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from small_vit import PATCH, SIDE, files_in, photo, pictures_of, small_vit

from dino_cli.config.shared import Preprocessing
from dino_cli.core.masks.threshold import threshold_mass
from dino_cli.core.network.backbone import Backbone
from dino_cli.tasks.attention.look import AttentionResult, head_tiles


def _size(path):
    with Image.open(path) as picture:
        return picture.size


def _mask(path):
    values = np.asarray(Image.open(path))
    assert set(np.unique(values)) <= {0, 255}
    return values > 0


def _expected_attention(path, size):
    """The documented steps written out: size is (height, width) before the trim."""
    image = Image.open(path).convert("RGB").resize(size[::-1], Image.Resampling.BILINEAR)
    h, w = size[0] // PATCH, size[1] // PATCH
    x = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None, :, : h * PATCH, : w * PATCH] / 255
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (Preprocessing().mean, Preprocessing().std))
    return Backbone(small_vit()).cls_attention((x - mean) / std)[0]


@pytest.mark.parametrize(
    ("option", "size"),
    [
        ([], (SIDE, SIDE * 70 // 50)),  # the weights' own size
        (["--image-size", "40"], (40, 56)),
        (["--image-size", "45x37"], (45, 37)),
    ],
)
def test_attention_and_masks_are_those_of_the_network(attention, tmp_path, option, size):
    picture = photo(tmp_path / "cat.png")
    attention(picture, *option, "--head", "all,mean")
    expected = _expected_attention(picture, size)
    folder = tmp_path / "attention" / "cat"
    saved = np.load(folder / "attention.npy")
    assert saved.dtype == np.float32
    assert saved.shape == (3, size[0] // PATCH, size[1] // PATCH)
    np.testing.assert_allclose(saved, expected, rtol=1e-4, atol=1e-7)

    maps = torch.from_numpy(saved)
    masks = threshold_mass(torch.cat([maps, maps.mean(0, keepdim=True)]), 0.6)
    for name, patches in zip(["head0", "head1", "head2", "mean"], masks, strict=True):
        seen = _mask(folder / f"mask_{name}.png")
        assert seen.shape == (50, 70)
        for y, x in [(0, 0), (10, 63), (24, 33), (49, 0), (30, 69), (49, 69), (41, 11)]:
            row = int((y + 0.5) * size[0] / 50 / PATCH)
            column = int((x + 0.5) * size[1] / 70 / PATCH)
            inside = row < patches.shape[0] and column < patches.shape[1]
            assert seen[y, x] == (bool(patches[row, column]) if inside else False)
        for kind in ("heat", "overlay"):
            assert _size(folder / f"{kind}_{name}.png") == (70, 50)
    assert _size(folder / "grid.png")[0] > 300


def test_trimmed_borders_are_zero_in_every_mask(attention, tmp_path):
    attention(photo(tmp_path / "cat.png"), "--image-size", "47x47", "--threshold", "1")
    for path in (tmp_path / "attention" / "cat").glob("mask_*"):
        seen = _mask(path)
        assert seen[:42, :59].all()  # 40 of 47 pixels lie in whole patches
        assert not seen[43:].any()
        assert not seen[:, 60:].any()


@pytest.mark.parametrize(
    ("options", "pictures"),
    [
        ([], pictures_of("head0", "head1", "head2")),
        (["--head", "mean"], pictures_of("mean")),
        (["--head", "best"], pictures_of("best")),
        (["--head", "2,0,2"], pictures_of("head0", "head2")),
        (["--masks", "seeded"], {"mask_seeded.png", "overlay_seeded.png"}
         | {f"heat_head{j}.png" for j in range(3)}),
        (["--masks", "cut", "--head", "best", "--refine", "guided"],
         {"mask_cut.png", "overlay_cut.png", "heat_best.png"}),
    ],
)  # fmt: skip
def test_files_of_each_choice(attention, tmp_path, options, pictures):
    attention(photo(tmp_path / "cat.png"), *options)
    assert files_in(tmp_path / "attention" / "cat") == pictures | {"attention.npy", "grid.png"}


def test_best_head_is_one_of_the_heads_and_is_reported(attention, tmp_path):
    photos = [photo(tmp_path / f"{i}.png", seed=i) for i in range(3)]
    result = json.loads(attention(*photos, "--head", "all,best", "--json").stdout)
    for row in result["images"]:
        folder = tmp_path / row["folder"]
        head = row["best_head"]
        assert (folder / "mask_best.png").read_bytes() == (
            folder / f"mask_head{head}.png"
        ).read_bytes()


def test_tiles_of_the_grid_have_the_masks_of_their_heat_maps():
    maps = torch.rand(3, 4, 5, generator=torch.Generator().manual_seed(0))
    masks = threshold_mass(torch.cat([maps, maps.mean(0, keepdim=True)]), 0.5)
    certainty = torch.ones(4, 5)
    seen = AttentionResult(maps, masks, (0.2, 0.4, 0.3, 0.1), 1, None, certainty, 0.5)
    mean, *heads = head_tiles(seen, 2)
    assert [one.caption for one in heads if one.marked] == ["head 2, best"]
    for tile, expected in zip((mean, *heads), (maps.mean(0), *maps), strict=True):
        assert np.array_equal(tile.attention, expected)
        assert np.array_equal(tile.mask, threshold_mass(expected, 0.5))


def test_refined_masks_follow_the_photo(attention, tmp_path):
    picture = photo(tmp_path / "cat.png", size=(90, 90))
    attention(picture, "--masks", "seeded", "-o", tmp_path / "plain")
    attention(picture, "--masks", "seeded", "--refine", "guided", "-o", tmp_path / "fitted")
    plain, fitted = (_mask(tmp_path / k / "cat" / "mask_seeded.png") for k in ("plain", "fitted"))
    assert plain.shape == fitted.shape == (90, 90)
    # Blocks change at patch borders only: 90 / 6 pixels apart
    assert not np.diff(plain.astype(int), axis=1)[:, 0].any()
    assert plain.reshape(6, 15, 6, 15).std(axis=(1, 3)).max() == 0
    assert fitted.reshape(6, 15, 6, 15).std(axis=(1, 3)).max() > 0


def test_result_as_json(attention, tmp_path):
    a, b = photo(tmp_path / "in" / "a.png"), photo(tmp_path / "in" / "x" / "b.png", (50, 70))
    result = json.loads(attention(tmp_path / "in", "-o", tmp_path / "out", "--json").stdout)
    rows = result["images"]
    assert [row.pop("best_head") in range(3) for row in rows] == [True, True]
    out = tmp_path / "out"
    assert rows == [
        {"input": str(a), "folder": str(out / "a"), "size": [50, 70], "grid": [6, 8], "heads": 3},
        {"input": str(b), "folder": str(out / "x" / "b"), "size": [70, 50], "grid": [8, 6],
         "heads": 3},
    ]  # fmt: skip
    assert result["skipped"] == 0
    assert result["skipped_list"] is None


def test_many_sizes_and_batches_give_what_single_photos_give(attention, tmp_path):
    sizes = [(70, 50), (50, 70), (70, 50), (64, 64), (70, 50), (50, 70), (70, 50)]
    for i, size in enumerate(sizes):
        photo(tmp_path / "in" / f"{i}.png", size, seed=i)
    attention(tmp_path / "in", "-o", "many", "--batch-size", 3, "--head", "mean")
    for i in range(len(sizes)):
        attention(tmp_path / "in" / f"{i}.png", "-o", "single", "--batch-size", 1, "--workers", 0)
        many, single = (np.load(tmp_path / k / f"{i}/attention.npy") for k in ("many", "single"))
        np.testing.assert_allclose(many, single, rtol=1e-4, atol=1e-7)


def test_equal_names_get_folders_of_their_own(attention, tmp_path):
    photos = [photo(tmp_path / name, seed=i) for i, name in enumerate(
        ["a/cat.png", "b/cat.png", "cat.jpg"])]  # fmt: skip
    result = json.loads(attention(*photos, "--head", "mean", "--json").stdout)
    folders = [row["folder"] for row in result["images"]]
    assert len(set(folders)) == 3
    assert len({(tmp_path / f / "attention.npy").read_bytes() for f in folders}) == 3


def test_exif_rotation(attention, tmp_path):
    picture = Image.open(photo(tmp_path / "flat.png"))
    tag = Image.Exif()
    tag[0x0112] = 6
    picture.save(tmp_path / "turned.jpg", exif=tag)
    attention(tmp_path / "turned.jpg", "--head", "mean", "-o", "turned")
    attention(tmp_path / "turned.jpg", "--head", "mean", "-o", "raw", "--no-exif")
    assert _size(tmp_path / "turned/turned/mask_mean.png") == (50, 70)
    assert _size(tmp_path / "raw/turned/mask_mean.png") == (70, 50)
