"""`dino pca`: its numbers against an SVD, its files, page and sheet against what it tells."""

import json
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from in_process import dino
from page_reader import Page
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file
from small_vit import SIDE, files_in, invoke, photo, small_vit, video

from dino_cli.config.shared import Preprocessing
from dino_cli.data.decoding.video import open_video
from dino_cli.store.pictures.videos import NO_H264
from dino_cli.tasks.pca import drawing, run
from dino_cli.tasks.photos import frames

DARK = (18, 18, 20)


def _picture(path):
    return np.asarray(Image.open(path).convert("RGB")).astype(int)


@torch.inference_mode()
def _features(path, kind, layer=-1):
    """Of the 6 × 9 patches of a photo of 60 × 90 pixels: (54, D), by hooks on the block."""
    image = Image.open(path).convert("RGB").resize((SIDE * 90 // 60, SIDE), 2)
    x = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None] / 255
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (Preprocessing().mean, Preprocessing().std))
    net, seen = small_vit(), {}
    block = net.blocks[layer]
    block.attn.qkv.register_forward_hook(lambda _m, _x, out: seen.update(keys=out.chunk(3, -1)[1]))
    block.register_forward_hook(lambda _m, _x, out: seen.update(tokens=net.norm(out)))
    net((x - mean) / std)
    return seen[kind][0, 1:].double().numpy()


@pytest.mark.parametrize(
    ("options", "fitted"),
    [
        (["--features", "keys", "--no-foreground"], [0, 1, 2]),
        (["--fit", 2], [0, 2]),
        (["--each", "--no-foreground"], None),
        (["--layer", 0, "--no-foreground"], [0, 1, 2]),
        (["--layer", -2, "--no-foreground", "--features", "keys"], [0, 1, 2]),
    ],
)
def test_coordinates_and_shares_are_those_of_a_singular_value_decomposition(
    pca, tmp_path, small_vit_weights, options, fitted
):
    paths = [photo(tmp_path / "in" / f"{i}.png", (90, 60), seed=i) for i in range(3)]
    told = json.loads(pca("in", *options, "--json").stdout)
    kind = "keys" if "keys" in options else "tokens"
    features = [_features(path, kind, 0 if "--layer" in options else -1) for path in paths]
    inside = [np.ones(54, bool)] * 3
    if "--no-foreground" not in options:  # what --masks tokens tells is what has colours
        invoke("attention", "in", "--masks", "tokens", "--weights", small_vit_weights, "-o", "a")
        masks = [_picture(f"a/{i}/mask_tokens.png")[..., 0] > 0 for i in range(3)]
        inside = [mask[5::10, 5::10].ravel() for mask in masks]
        for i, mask in enumerate(masks):
            assert np.array_equal((_picture(f"pca/{i}/pca.png") == DARK).all(-1), ~mask)
    told_inside = [row["foreground"] for row in told["images"]]
    assert told_inside == pytest.approx([one.mean() for one in inside], abs=1e-4)
    for i in range(3):
        chosen = np.concatenate([features[j][inside[j]] for j in (fitted or [i])])
        mean = chosen.mean(0)
        _, lengths, directions = np.linalg.svd(chosen - mean, full_matrices=False)
        expected = (features[i] - mean) @ directions[:3].T
        found = np.load(f"pca/{i}/pca.npy").reshape(54, 3)
        signs = np.sign((expected * found).sum(0))
        np.testing.assert_allclose(found * signs, expected, atol=0.02 * np.abs(expected).max())
        shares = lengths[:3] ** 2 / (lengths**2).sum()
        assert (
            told["shares"] is None
            if fitted is None
            else told["shares"] == pytest.approx(shares, abs=2e-3)
        )
    assert told["fitted_on"] == len(fitted or [])
    if fitted is not None:
        with safe_open("pca/components.safetensors", "np") as file:
            assert file.get_tensor("shares") == pytest.approx(told["shares"], abs=1e-4)
            about = file.metadata()
        assert about["fitted_on"] == str(len(fitted))
        assert about["features"] == kind
        assert about.get("layer") == ("0" if "--layer" in options else None)


def test_an_earlier_block_is_all_that_is_computed(pca, tmp_path, small_vit_weights):
    """The foreground comes from it too; the last block by its number is none."""
    photo(tmp_path / "cat.png")
    tensors = small_vit().state_dict()
    tensors["blocks.1.mlp.fc1.bias"] += 3e38
    with safe_open(small_vit_weights, "np") as file:
        save_file(tensors, "broken.safetensors", metadata=file.metadata())
    broken = ["cat.png", "--weights", "broken.safetensors", "--precision", "fp32", "-o", "early"]
    assert "features in fp32 are not finite" in pca(*broken, code=1).stderr
    pca(*broken, "--layer", 0, "--html")
    assert ", block 0, computed in fp32<" in Path("early/index.html").read_text()
    plain, last = (["cat.png", "--html", "-o", name] for name in ("plain", "last"))
    pca(*plain)
    pca(*last, "--layer", 1)
    for name in ("components.safetensors", "cat/pca.npy", "index.html"):
        assert Path("plain", name).read_bytes() == Path("last", name).read_bytes()
    assert not np.allclose(np.load("plain/cat/pca.npy"), np.load("early/cat/pca.npy"), atol=0.01)
    for layer in (2, -3):
        said = pca("cat.png", "--layer", layer, "-o", "none", code=2).stderr
        assert f"layer {layer} asked for, but" in said
        assert "has 2 blocks, 0 to 1" in said


def _frames(path):
    return [frame.astype(int) for frame in open_video(Path(path))]


@pytest.mark.slow
def test_a_video_has_colours_of_its_own_that_fit_all_its_frames(pca, tmp_path):
    """With --each as when it is alone, and nothing is taken for surroundings if so asked."""
    video(tmp_path / "clip.mp4", frames=7)
    options = ["--fit", 3, "--no-foreground", "--json"]
    alone = json.loads(pca("clip.mp4", *options).stdout)
    assert alone["fitted_on"] == 3
    each = json.loads(pca("clip.mp4", "--each", *options, "-o", "each").stdout)
    assert each["images"][0]["foreground"] == alone["images"][0]["foreground"] == 1
    pairs = zip(_frames("pca/clip/pca.mp4"), _frames("each/clip/pca.mp4"), strict=True)
    assert all(np.array_equal(one, other) for one, other in pairs)
    pca("clip.mp4", "--overwrite", *options)
    assert files_in(tmp_path / "pca/clip") == {"pca.mp4", "beside.mp4"}


@pytest.mark.slow
@pytest.mark.parametrize(("known", "fitted"), [(True, 1 + 2), (False, 2 + 4)])
def test_the_fit_is_even_among_photos_and_frames(pca, tmp_path, monkeypatch, known, fitted):
    """A video that does not say how long it is counts as much as all that is fitted to."""
    for i in range(3):
        photo(tmp_path / "in" / f"{i}.png", seed=i)
    video(tmp_path / "in/clip.mp4", frames=7)
    if not known:
        unknown = lambda *given: replace(open_video(*given), count=0)  # noqa: E731
        monkeypatch.setattr(frames, "open_video", unknown)
    told = json.loads(pca("in", "--fit", 3, "--json").stdout)
    assert told["fitted_on"] == fitted
    assert [row["input"] for row in told["images"]] == [
        *(f"in/{i}.png" for i in range(3)), "in/clip.mp4",
    ]  # fmt: skip


def test_the_foreground_of_a_video_is_the_mean_of_its_frames(pca, tmp_path):
    for i, size in enumerate([(90, 60), (90, 60), (90, 60)]):
        photo(tmp_path / "in" / f"{i}.png", size, seed=i)
    shares = [row["foreground"] for row in json.loads(pca("in", "--json").stdout)["images"]]
    (row,) = json.loads(pca("in", "--fps", 5, "-o", "v", "--json").stdout)["images"]
    assert row["foreground"] == pytest.approx(sum(shares) / 3, abs=2e-4)
    assert row["foreground"] != shares[-1]
    (tmp_path / "in/1.png").write_bytes(b"-")
    said = pca("in", "--fps", 5, "--strict", "-o", "x", code=1).stderr
    assert "cannot read 'in/1.png'" in said
    assert not (tmp_path / "x").exists()


def test_pictures_of_wide_large_and_trimmed_photos(pca, tmp_path):
    photo(tmp_path / "wide.png", (2000, 90))
    photo(tmp_path / "cat.png", (90, 60))
    pca("wide.png", "--no-foreground")
    colours, both = _picture("pca/wide/pca.png"), _picture("pca/wide/beside.png")
    assert colours.shape == (72, 1600, 3)
    assert both.shape == (72 + 8 + 72, 1600, 3)
    assert np.array_equal(both[80:], colours)
    pca("cat.png", "--no-foreground", "--image-size", "47x47", "-o", "trimmed")
    dark = (_picture("trimmed/cat/pca.png") == DARK).all(-1)
    assert dark[52:].all()  # 40 of 47 pixels lie in whole patches
    assert dark[:, 77:].all()
    assert not dark[:51, :76].any()


def test_the_sheet_shows_photos_in_their_order_over_their_colours(pca, tmp_path, monkeypatch):
    monkeypatch.setattr(drawing, "MOST_PAIRS", 5)
    colours = [(200, 10, 10), (10, 190, 10), (10, 10, 180), (170, 160, 10), (10, 150, 140),
               (130, 10, 120)]  # fmt: skip
    for i, colour in enumerate(colours):  # of unequal sizes, so that they are done in no order
        path = tmp_path / "in" / f"{i}.png"
        path.parent.mkdir(exist_ok=True)
        Image.new("RGB", (60, 60) if i % 2 else (60, 90), colour).save(path)
    pca("in", "--batch-size", 2)
    sheet = _picture("pca/sheet.png")
    places = [np.argwhere((np.abs(sheet - c) <= 1).all(-1)) for c in colours]
    assert not len(places[5])
    rows, columns = (np.array([place.mean(0)[axis] for place in places[:5]]) for axis in (0, 1))
    assert len({int(column) // 100 for column in columns[:4]}) == 4
    assert (np.diff(columns[:4]) > 200).all()
    assert rows[:4] == pytest.approx(rows[0], abs=2)
    assert rows[0] < sheet.shape[0] / 4 < sheet.shape[0] / 2 < rows[4] < 3 * sheet.shape[0] / 4
    assert columns[4] == pytest.approx(columns[0], abs=40)


@pytest.mark.parametrize("each", [True, False])
def test_the_page_says_and_shows_what_was_asked(pca, tmp_path, each):
    for i in range(2):
        photo(tmp_path / "in" / f"cat{i}.png", (90, 60), seed=i)
    video(tmp_path / "in/clip.mp4", frames=2)
    pca("in", "--html", *(["--each"] if each else ["--no-foreground"]))
    page = Page(tmp_path / "pca/index.html")
    names = ["cat0.png", "cat1.png", "clip.mp4"]
    assert [name for name in page.words.split() if name in names] == names
    assert ("A colour means the same in all pictures" in page.words) is not each
    assert ("Each input is coloured for itself" in page.words) is each
    assert ("Fitted to4 images or frames" in page.words) is not each
    assert ("takes for surroundings is dark" in page.words) is each
    coloured = page.pictures("its patches, coloured by what they are")
    shown = [*page.pictures("the photo"), *page.pictures("the frame")]
    expected = [_picture(f"in/cat{i}.png") for i in range(2)], _frames("in/clip.mp4")
    for one, other in zip(shown, [*expected[0], *expected[1]], strict=True):
        assert np.abs(one - other).mean() < 20
    files = [_picture(f"pca/cat{i}/pca.png") for i in range(2)], _frames("pca/clip/pca.mp4")
    for one, other in zip(coloured, [*files[0], *files[1]], strict=True):
        assert np.abs(one - other).mean() < 20


def test_an_interruption_keeps_what_is_done_with_all_that_is_shared(pca, tmp_path, monkeypatch):
    for i in range(5):
        photo(tmp_path / "in" / f"{i}.png", seed=i)
    calls, extract = [], drawing.extract_patches

    def interrupted(*arguments):
        calls.append(0)
        if len(calls) == 3:
            while not (tmp_path / "pca/2/beside.png").exists():
                time.sleep(0.01)
            raise KeyboardInterrupt
        return extract(*arguments)

    monkeypatch.setattr(drawing, "extract_patches", interrupted)
    options = ["--fit", 1, "--batch-size", 1, "--html"]
    assert "3 of 5 inputs are done" in pca("in", *options, code=130).stderr
    shared = {"index.html", "sheet.png", "components.safetensors"}
    assert files_in(tmp_path / "pca") == {"0", "1", "2"} | shared
    page = Page(tmp_path / "pca/index.html")
    assert len(page.pictures("the photo")) == 3


def test_the_components_do_not_replace_the_weights(pca, tmp_path, small_vit_weights):
    photo(tmp_path / "cat.png")
    (tmp_path / "pca").mkdir()
    weights = tmp_path / "pca/components.safetensors"
    weights.write_bytes(small_vit_weights.read_bytes())
    said = pca("cat.png", "--weights", weights, "--overwrite", code=1).stderr
    assert "components.safetensors' is read, and would be replaced" in said
    assert weights.read_bytes() == small_vit_weights.read_bytes()


def test_features_that_are_not_finite_are_an_error(pca, tmp_path, small_vit_weights):
    photo(tmp_path / "cat.png")
    tensors = small_vit().state_dict()
    tensors["norm.weight"] *= 3e38
    with safe_open(small_vit_weights, "np") as file:
        save_file(tensors, "large.safetensors", metadata=file.metadata())
    assert "finite" in pca("cat.png", "--weights", "large.safetensors", code=1).stderr
    assert not (tmp_path / "pca").exists()


def test_videos_that_browsers_do_not_play_are_told_of(small_vit_weights, tmp_path, monkeypatch):
    from dino_cli.store.pictures import videos

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(videos, "h264_program", lambda: None)
    monkeypatch.setattr(run, "h264_program", lambda: None)
    video(tmp_path / "clip.mp4", frames=1)
    told = dino("pca", "clip.mp4", "--device", "cpu", "--weights", small_vit_weights).stderr
    assert NO_H264 in " ".join(told.split())
