"""`dino pca`, through the command line, on small photos and a small random network."""

import json
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from small_vit import disc, no_class_token, photo, small_vit, video

from dino_cli.core.masks.objects import token_masks
from dino_cli.data.decoding.video import open_video
from dino_cli.tasks.pca import features
from dino_cli.tasks.photos import frames


def _picture(path):
    return np.asarray(Image.open(path).convert("RGB"))


def test_files_of_a_photo(pca, tmp_path):
    photo(tmp_path / "cat.png")
    row = json.loads(pca("cat.png", "--json").stdout)["images"][0]
    assert {p.name for p in (tmp_path / "pca").iterdir()} == {"cat", "components.safetensors"}
    assert {p.name for p in (tmp_path / "pca/cat").iterdir()} == {
        "pca.npy", "pca.png", "beside.png",
    }  # fmt: skip
    places = np.load("pca/cat/pca.npy")
    assert places.shape == (6, 8, 3)
    assert row["grid"] == [6, 8]
    picture = _picture("pca/cat/pca.png")
    assert picture.shape == (50, 70, 3)
    coloured = (np.ptp(picture.astype(int), axis=-1) > 5).mean()
    assert coloured == pytest.approx(row["foreground"], abs=0.15)
    pca("cat.png", "--no-foreground", "-o", "all")
    assert (_picture("all/cat/pca.png") == (18, 18, 20)).all(-1).mean() < 0.1


def test_features_beyond_half_precision(pca, tmp_path, small_vit_weights):
    """The same colours, whatever the scale of the features."""
    photo(tmp_path / "cat.png")
    tensors = small_vit().state_dict()
    for name in ("norm.weight", "norm.bias"):
        tensors[name] = tensors[name] * 2**20
    with safe_open(small_vit_weights, "np") as file:
        save_file(tensors, "large.safetensors", metadata=file.metadata())
    pca("cat.png", "--precision", "fp32", "--no-foreground")
    pca("cat.png", "--weights", "large.safetensors", "--precision", "fp32", "--no-foreground",
        "-o", "large")  # fmt: skip
    one, other = (_picture(f"{folder}/cat/pca.png").astype(int) for folder in ("pca", "large"))
    assert np.abs(one - other).max() <= 2


def test_in_half_precision_foreground_follows_from_single_precision(pca, tmp_path, monkeypatch):
    """As of `dino attention`: the network runs in half precision, means of its tokens do not."""
    rounded = []

    def masks(attention, tokens):
        rounded.append(torch.is_autocast_enabled("cpu"))
        return token_masks(attention, tokens)

    monkeypatch.setattr(features, "token_masks", masks)
    photo(tmp_path / "cat.png")
    pca("cat.png", "--precision", "bf16")
    assert rounded
    assert not any(rounded)


def test_colours_are_joint_and_follow_from_the_stored_components(pca, tmp_path):
    for i in range(4):
        photo(tmp_path / "in" / f"{i}.png", seed=i)
    result = json.loads(pca("in", "--no-foreground", "--batch-size", 3, "--json").stdout)
    assert result["fitted_on"] == 4
    assert len(result["shares"]) == 3
    stored = load_file("pca/components.safetensors")
    for i in range(4):
        places = np.load(f"pca/{i}/pca.npy")
        low, high = stored["low"].numpy(), stored["high"].numpy()
        colours = ((places - low) / (high - low)).clip(0, 1)
        picture = _picture(f"pca/{i}/pca.png")
        assert np.abs(picture[4, 4] - 255 * colours[0, 0]).max() <= 1
        assert np.abs(picture[25, 30] - 255 * colours[3, 3]).max() <= 1
    assert _picture("pca/sheet.png").shape[1] > 800
    pca("in", "--no-foreground", "--each", "-o", "each")
    assert not (tmp_path / "each/components.safetensors").exists()
    assert not np.allclose(np.load("each/0/pca.npy"), np.load("pca/0/pca.npy"), atol=1e-3)


def test_a_fit_to_a_few_is_used_for_all(pca, tmp_path):
    for i in range(5):
        photo(tmp_path / "in" / f"{i}.png", seed=i)
    result = json.loads(pca("in", "--fit", 2, "--json").stdout)
    assert result["fitted_on"] == 2
    assert len(result["images"]) == 5


def test_video(pca, tmp_path):
    video(tmp_path / "clip.mp4", frames=9)
    row = json.loads(pca("clip.mp4", "--batch-size", 4, "--html", "--json").stdout)["images"][0]
    assert row["frames"] == 9
    colours, both = (list(open_video(tmp_path / f"pca/clip/{n}.mp4")) for n in ("pca", "beside"))
    assert len(colours) == len(both) == 9
    assert both[0].shape == (50, 70 + 8 + 70, 3)
    assert np.abs(both[3][:, :70].astype(int) - disc(seed=3, at=(0.25 + 0.5 / 3, 0.5))).mean() < 25
    assert np.abs(both[3][:, 80:148].astype(int) - colours[3][:, 2:70]).mean() < 15
    page = (tmp_path / "pca/index.html").read_text()
    assert "9 frames" in page
    assert "<script" not in page


@pytest.mark.slow
def test_pictures_in_a_folder_are_frames_where_a_rate_is_given(pca, tmp_path):
    for i in range(5):
        photo(tmp_path / "in" / "walk" / f"{i}.png", seed=i)
    result = json.loads(pca("in", "--fps", 5, "--fit", 3, "--json").stdout)
    (row,) = result["images"]
    assert (row["input"], row["frames"], row["fps"]) == ("in/walk", 5, 5.0)
    assert {p.name for p in (tmp_path / "pca/walk").iterdir()} == {"pca.mp4", "beside.mp4"}
    assert len(list(open_video(tmp_path / "pca/walk/pca.mp4"))) == 5
    assert result["fitted_on"] == 3


def test_a_network_without_class_token(pca, tmp_path):
    photo(tmp_path / "cat.png")
    options = ["cat.png", *no_class_token(tmp_path), "--image-size", 96]
    row = json.loads(pca(*options, "--json").stdout)["images"][0]
    assert row["grid"] == [6, 8]
    assert 0 < row["foreground"] < 1
    dark = (_picture("pca/cat/pca.png") == (18, 18, 20)).all(-1)[4::8, 4::8][:6, :8]
    border = np.concatenate([dark[0], dark[-1], dark[1:-1, 0], dark[1:-1, -1]])
    assert border.mean() > dark.mean()  # things are photographed in the middle
    assert "no class token" in pca(*options, "--features", "keys", "-o", "x", code=2).stderr


def test_unreadable_files_are_skipped(pca, tmp_path):
    photo(tmp_path / "in" / "b.png")
    (tmp_path / "in" / "a.png").write_bytes(b"-")
    (tmp_path / "in" / "c.mp4").write_bytes(b"-")
    result = json.loads(pca("in", "--fit", 1, "--json").stdout)
    assert result["skipped"] == 2
    assert len((tmp_path / "pca/skipped.csv").read_text().splitlines()) == 3
    assert "a.png" in pca("in/a.png", "-o", "x", code=1).stderr
    (tmp_path / "in" / "a.png").unlink()
    assert "c.mp4" in pca("in", "--strict", "-o", "x", code=1).stderr
    assert not (tmp_path / "x").exists()


def test_frames_that_cannot_be_read_are_listed(pca, tmp_path):
    for i in range(3):
        photo(tmp_path / "in" / f"{i}.png", seed=i)
    (tmp_path / "in/1.png").write_bytes(b"-")
    result = json.loads(pca("in", "--fps", 5, "--json").stdout)
    assert (result["images"][0]["frames"], result["skipped"]) == (2, 1)
    assert "in/1.png," in (tmp_path / "pca/skipped.csv").read_text()


def test_a_video_that_does_not_fit_is_skipped(pca, tmp_path):
    """The colours are fitted before anything is drawn: there, too, it is no error."""
    photo(tmp_path / "cat.png")
    video(tmp_path / "strip.mp4", frames=3, size=(4000, 2))
    result = json.loads(pca("strip.mp4", "cat.png", "--json").stdout)
    assert (result["fitted_on"], result["skipped"], len(result["images"])) == (1, 1, 1)
    assert "too many" in (tmp_path / "pca/skipped.csv").read_text()
    told = pca("strip.mp4", "-o", "x", code=1).stderr
    assert "'strip.mp4': 96000 x 48 pixels after resizing are too many; stretch it" in told
    assert not (tmp_path / "x").exists()


def test_page_shows_frames_evenly(pca, tmp_path, monkeypatch):
    """Also of a video that does not say how long it is."""
    video(tmp_path / "clip.mp4", frames=9)
    monkeypatch.setattr(frames, "open_video", lambda *given: replace(open_video(*given), count=0))
    pca("clip.mp4", "--html")
    page = (tmp_path / "pca/index.html").read_text()
    assert re.findall(r"<figcaption>(\S+) s</figcaption>", page) == ["0.0", "0.4", "0.8"]


def test_results_are_kept_unless_overwritten(pca, tmp_path):
    photo(tmp_path / "in" / "a.png")
    pca("in/a.png")
    before = (tmp_path / "pca/a/pca.png").read_bytes()
    assert "already exists" in pca("in/a.png", code=1).stderr
    pca("in/a.png", "--overwrite", "--no-foreground")
    assert (tmp_path / "pca/a/pca.png").read_bytes() != before


@pytest.mark.parametrize("names", [["sheet.png", "a.png"], ["b/pca.png", "b.png"]])
def test_results_replace_no_input(pca, tmp_path, names):
    files = [photo(tmp_path / name) for name in names]
    before = [file.read_bytes() for file in files]
    said = pca(*names, "-o", ".", "--overwrite", code=1).stderr
    assert f"'{names[0]}' is read, and would be replaced; choose another -o" in said
    assert [file.read_bytes() for file in files] == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--fit", "0"], "--fit 0"),
        (["--image-size", "5"], "smaller than one patch of 8"),
        (["--batch-size", "0"], "batch size 0"),
        (["--fps", "-1"], "-1 frames per second"),
    ],
)
def test_misuse(pca, tmp_path, options, message):
    assert message in pca(photo(tmp_path / "cat.png"), *options, code=2).stderr
    assert not (tmp_path / "pca").exists()


def test_no_image_and_a_convnet(pca, tmp_path):
    import timm

    assert "no picture given" in pca(code=2).stderr
    name = "test_resnet.r160_in1k"
    net = timm.create_model(name, pretrained=False)
    save_file(net.state_dict(), tmp_path / "net.safetensors")
    line = [photo(tmp_path / "cat.png"), "--weights", "net.safetensors", "--arch", name]
    assert "has no patch tokens" in pca(*line, code=2).stderr
