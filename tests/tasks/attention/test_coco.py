"""`dino attention --format coco`: what the files say, against pictures and the network."""

import hashlib
import json
import re

import numpy as np
import pytest
import torch
from page_reader import levels, rises_with
from PIL import Image
from small_vit import SIDE, network_input, photo, pixels, small_vit

from dino_cli.config.shared import Preprocessing
from dino_cli.core.masks.threshold import threshold_mass
from dino_cli.core.network.backbone import Backbone


def _masks_of(folder, name):
    return pixels(f"attention/{folder}/mask_{name}.png") > 0


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_coco_holds_the_masks_of_the_pictures(attention, tmp_path, capsys):
    coco = pytest.importorskip("pycocotools.coco")
    for i in range(5):
        photo(tmp_path / "in" / f"{i % 2}" / f"{i}.png", (70, 50) if i % 3 else (50, 70), seed=i)
    attention("in", "--head", "1,mean", "--format", "pictures,coco", "--batch-size", 2)
    read = coco.COCO("attention/coco.json")
    capsys.readouterr()
    files = [read.imgs[i]["file_name"] for i in sorted(read.imgs)]
    assert files == ["0/0.png", "0/2.png", "0/4.png", "1/1.png", "1/3.png"]
    assert [c["name"] for c in read.dataset["categories"]] == ["head1", "mean"]
    for one in read.anns.values():
        name = read.cats[one["category_id"]]["name"]
        image = read.imgs[one["image_id"]]
        mask = read.annToMask(one).astype(bool)
        assert mask.shape == (image["height"], image["width"])
        assert np.array_equal(mask, _masks_of(image["file_name"].removesuffix(".png"), name))
        assert 0 <= one["score"] <= 1
        assert one["area"] == mask.sum()
    assert len(read.anns) == 10


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
@pytest.mark.parametrize("options", [[], ["--refine", "guided", "--instances"]])
def test_masks_have_the_size_of_a_photo_too_large_for_overlays(
    attention, tmp_path, capsys, options
):
    coco = pytest.importorskip("pycocotools.coco")
    photo(tmp_path / "wide.png", (2000, 90))
    attention("wide.png", "--masks", "seeded", *options, "--format", "coco,pictures")
    mask = _masks_of("wide", "seeded")
    read = coco.COCO("attention/coco.json")
    capsys.readouterr()
    assert (read.imgs[1]["height"], read.imgs[1]["width"]) == mask.shape == (90, 2000)
    parts = [read.annToMask(one).astype(bool) for one in read.anns.values()]
    assert np.array_equal(np.any(parts, axis=0), mask)
    assert 0 < mask.mean() < 1
    overlay = pixels("attention/wide/overlay_seeded.png").astype(int)
    assert overlay.shape == (*pixels("attention/wide/heat_head1.png").shape[:2], 3) == (72, 1600, 3)
    # The photo is seen as it is inside the mask, and nowhere else.
    small = Image.open("wide.png").resize((1600, 72), Image.Resampling.BOX)
    kept = np.abs(overlay - np.asarray(small)).max(-1) < 40
    there = np.asarray(Image.fromarray(mask).resize((1600, 72), Image.Resampling.NEAREST))
    assert kept[there].mean() > 0.8 > 0.1 > kept[~there].mean()


@pytest.mark.parametrize("kind", ["rle", "polygons"])
def test_coco_names_heads_files_and_the_network(attention, tmp_path, small_vit_weights, kind):
    for i in range(4):
        photo(tmp_path / "in" / f"{i}.png", (90, 60), seed=i)
    photo(tmp_path / "more" / "x.png")
    options = ["--head", "2, all,2", "--image-size", 64, "--json"]
    formats = {"rle": "coco,coco", "polygons": "polygons, pictures"}[kind]
    told = json.loads(attention("in", "more/x.png", *options, "--format", formats).stdout)
    name = {"rle": "coco", "polygons": "coco-polygons"}[kind]
    read = json.loads((tmp_path / f"attention/{name}.json").read_text())
    assert [(one["id"], one["name"]) for one in read["categories"]] == [
        (1, "head2"), (2, "head0"), (3, "head1"),
    ]  # fmt: skip
    files = [*(f"in/{i}.png" for i in range(4)), "more/x.png"]
    assert [image["file_name"] for image in read["images"]] == files
    assert [(image["height"], image["width"]) for image in read["images"]] == [
        *[(60, 90)] * 4, (50, 70),
    ]  # fmt: skip
    digest = hashlib.sha256(small_vit_weights.read_bytes()).hexdigest()
    assert read["info"]["weights_sha256"] == digest
    assert len(read["annotations"]) == 3 * 5
    best = [row["best_head"] for row in told["images"]]
    for image, head in enumerate(best, 1):
        scores = {
            read["categories"][one["category_id"] - 1]["name"]: one["score"]
            for one in read["annotations"]
            if one["image_id"] == image
        }
        assert scores[f"head{head}"] == max(scores.values()) > min(scores.values())
    folders = [row["folder"] for row in told["images"]]
    assert (
        folders
        == {
            "rle": [None] * 5,
            "polygons": [f"attention/{file.removesuffix('.png')}" for file in "0123x"],
        }[kind]
    )


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
@pytest.mark.parametrize(("kind", "name"), [("coco", "coco"), ("polygons", "coco-polygons")])
def test_instances_are_the_parts_of_the_mask(attention, tmp_path, capsys, kind, name):
    coco = pytest.importorskip("pycocotools.coco")
    photo(tmp_path / "cat.png", (140, 100))
    options = [
        "--threshold",
        "0.5",
        "--image-size",
        96,
        "--instances",
        "--format",
        f"pictures,{kind}",
        "--json",
    ]
    row = json.loads(attention("cat.png", "--head", "0", *options).stdout)["images"][0]
    labels = pixels("attention/cat/instances_head0.png")
    count = int(labels.max())
    assert count > 1
    assert row["instances"] == {"head0": count}
    assert np.array_equal(labels > 0, _masks_of("cat", "head0"))
    read = coco.COCO(f"attention/{name}.json")
    capsys.readouterr()
    found = [read.anns[i] for i in sorted(read.anns)]
    assert len(found) == count
    for number, one in enumerate(found, 1):
        part = labels == number
        ys, xs = np.nonzero(part)
        x, y, w, h = one["bbox"]
        assert (x, y, x + w - 1, y + h - 1) == (xs.min(), ys.min(), xs.max(), ys.max())
        assert np.array_equal(read.annToMask(one).astype(bool), part)
    assert [one["score"] for one in found] == sorted((o["score"] for o in found), reverse=True)


def test_specks_that_the_filter_leaves_are_no_objects(attention, tmp_path):
    squares = np.random.default_rng(1).integers(0, 256, (15, 23, 3)).astype(np.uint8)
    Image.fromarray(squares.repeat(4, 0).repeat(4, 1)).save(tmp_path / "cat.png")
    options = ["--refine", "guided", "--head", "0"]
    attention("cat.png", *options, "-o", "plain")
    attention("cat.png", *options, "--instances")
    mask, labels = _masks_of("cat", "head0"), pixels("attention/cat/instances_head0.png")
    plain = pixels("plain/cat/mask_head0.png") > 0
    assert np.array_equal(labels > 0, mask)
    assert not (mask & ~plain).any()
    assert 20 < (plain & ~mask).sum() < 0.4 * plain.sum()


def test_coco_alone_writes_one_file(attention, tmp_path):
    photo(tmp_path / "in" / "a.png")
    (tmp_path / "in" / "b.png").write_bytes(b"-")
    told = attention("in", "--format", "coco", "--head", "mean").stdout
    assert re.search(r"^attention/coco.json: (\d+) masks in \1 images$", told, re.MULTILINE)
    assert {p.name for p in (tmp_path / "attention").iterdir()} == {"coco.json", "skipped.csv"}
    result = attention("in", "--format", "coco", "--head", "mean", code=1)
    assert "'attention/coco.json' already exists" in result.stderr
    attention("in", "--format", "coco", "--head", "best", "--overwrite")
    assert '"best"' in (tmp_path / "attention/coco.json").read_text()


def test_a_failure_leaves_no_shared_file(attention, tmp_path, monkeypatch):
    from dino_cli.tasks.photos import results

    def full(*_):
        raise OSError(28, "No space left on device")

    photo(tmp_path / "cat.png")
    monkeypatch.setattr(results, "write_page", full)
    assert "No space left" in attention("cat.png", "--format", "coco", "--html", code=1).stderr
    assert not (tmp_path / "attention").exists()


def test_scores_of_heads_are_their_overlaps_with_the_seeded_mask(attention, tmp_path):
    photo(tmp_path / "cat.png")
    attention("cat.png", "--format", "coco")
    attention("cat.png", "--masks", "seeded", "--head", "mean", "-o", "s", "--image-size", SIDE)
    x = network_input(tmp_path / "cat.png")
    attention, keys = Backbone(small_vit()).cls_attention_and_keys(x)
    from dino_cli.core.masks.objects import overlap, seeded_masks

    expected = overlap(threshold_mass(attention, 0.6)[0], seeded_masks(attention, keys))
    read = json.loads((tmp_path / "attention/coco.json").read_text())
    scores = [one["score"] for one in read["annotations"]]
    np.testing.assert_allclose(scores, expected, atol=1e-3)


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
@pytest.mark.parametrize(
    ("masks", "layer"), [("seeded", 0), ("tokens", 0), ("tokens", -1), ("cut", -1)]
)
def test_the_one_mask_of_a_photo_is_that_of_the_network(attention, tmp_path, masks, layer):
    """Each by its features, and scored: a mask by its clear patches, a part by those in it."""
    from dino_cli.core.masks import objects

    squares = np.random.default_rng(0).integers(0, 256, (4, 6, 3)).astype(np.uint8)
    Image.fromarray(squares.repeat(16, 0).repeat(16, 1)).save(tmp_path / "cat.png")
    options = ["--masks", masks, "--layer", layer, "--image-size", 64, "--instances", "--json"]
    told = attention("cat.png", *options, "--format", "pictures,coco", "--head", "mean").stdout
    (row,) = json.loads(told)["images"]
    image = Image.open("cat.png")
    x = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None] / 255
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (Preprocessing().mean, Preprocessing().std))
    heads, keys, tokens = Backbone(small_vit()).attention_keys_and_tokens(
        (x - mean) / std, layer=layer
    )
    seeded = objects.seeded_masks(heads, keys)
    expected = {
        "seeded": seeded,
        "tokens": objects.token_masks(heads, tokens),
        "cut": objects.cut_masks(heads, keys),
    }
    assert len({mask.numpy().tobytes() for mask in expected.values()}) == 3
    clear = objects.certainties(keys, seeded)[0].numpy()
    score = objects.overlap(expected["cut"], seeded)[0] if masks == "cut" else clear.mean()
    assert row["score"] == pytest.approx(float(score), abs=1e-3)
    mask = expected[masks][0].numpy()
    assert np.array_equal(_masks_of("cat", masks), mask.repeat(8, 0).repeat(8, 1))
    parts = json.loads((tmp_path / "attention/coco.json").read_text())["annotations"]
    inside = sum(one["score"] * one["area"] for one in parts) / sum(one["area"] for one in parts)
    assert inside == pytest.approx(clear[mask].mean(), abs=1e-3)
    heat = levels(np.asarray(Image.open("attention/cat/heat_mean.png").convert("RGB")), "inferno")
    assert rises_with(heat[4::8, 4::8], heads[0].mean(0).numpy())
