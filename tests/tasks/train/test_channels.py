"""`dino train --in-chans`, and rectangular views: from files to a model that reads them again."""

import json
import tarfile
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from in_process import dino
from small_run import small_config

from dino_cli.config.shared import IMAGENET_MEAN, IMAGENET_STD
from dino_cli.core.network.backbone import Backbone, build
from dino_cli.data.decoding.own_depth import read_samples
from dino_cli.data.preprocess import build_transform, normalize
from dino_cli.store.runs.log import Log
from dino_cli.store.weights.load import load

tifffile = pytest.importorskip("tifffile")

CONFIG = small_config(epochs=2, local_crops_number=1, warmup_epochs=0, watch=2)
KINDS = {
    "g16": ("png", 1, ["0.46"], ["0.09"]),
    "f5": ("tif", 5, ["0", "0", "1", "2", "-3.5"], ["100"]),
    "npy": ("npy", 2, ["0"], ["90", "110"]),
}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Eight smooth fields in two classes: 16-bit grey PNG, float TIFF of 5 bands, arrays of 2."""
    top = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    for folder in (top / kind / label for kind in KINDS for label in "ab"):
        folder.mkdir(parents=True)
    for i in range(8):
        label = "ab"[i // 4]
        coarse = rng.normal(size=(5, 6, 5)).astype(np.float32)
        field = cv2.resize(coarse, (48, 40), interpolation=cv2.INTER_CUBIC)
        grey = (field[..., 0] * 6000 + 30000).clip(0, 65535).astype(np.uint16)
        cv2.imwrite(str(top / "g16" / label / f"{i}.png"), grey)
        bands = field * 100
        tifffile.imwrite(
            top / "f5" / label / f"{i}.tif", bands, photometric="minisblack", planarconfig="contig"
        )
        np.save(top / "npy" / label / f"{i}.npy", bands[..., :2])
    (top / "small.toml").write_text(CONFIG)
    return top


def flags(kind):
    _, channels, mean, std = KINDS[kind]
    return ["--in-chans", channels, "--mean", *mean, "--std", *std]


@pytest.fixture(scope="module")
def run(data, tmp_path_factory):
    """A run of two steps on one kind of images, made once."""
    made: dict[str, Path] = {}

    def of(kind):
        if kind not in made:
            made[kind] = tmp_path_factory.mktemp("runs") / kind
            config = data / "small.toml"
            dino("train", data / kind, "--config", config, "-o", made[kind], *flags(kind))
        return made[kind]

    return of


def features_of(folder, values):
    """The teacher's features of normalised values, (B, C, H, W)."""
    weights = load(model="", weights=folder)
    net = build(weights.architecture)
    net.load_state_dict(weights.tensors)
    return Backbone(net).features(torch.from_numpy(values.astype(np.float32))).numpy()


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_is_read_back_with_its_channels_and_range(data, run, tmp_path, kind):
    """`embed` equals a forward pass on numbers that are scaled here, by hand, from the files."""
    suffix, channels, mean, std = KINDS[kind]
    folder = run(kind)
    described = json.loads((folder / "config.json").read_text())
    assert described["architecture"]["in_chans"] == channels
    assert len(described["preprocessing"]["mean"]) == channels
    exact = ["--resize", "40", "--crop", "40", "--device", "cpu", "--precision", "fp32"]
    dino("embed", data / kind, "--weights", folder, "-o", tmp_path / "f.npy", *exact)
    planes = []
    for i in range(8):
        path = data / kind / "ab"[i // 4] / f"{i}.{suffix}"
        if suffix == "png":
            values = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)[..., None] / 65535
        else:
            values = tifffile.imread(path) if suffix == "tif" else np.load(path)
        planes.append((values[:, 4:44] - np.array(mean, float)) / np.array(std, float))
    expected = features_of(folder, np.stack(planes).transpose(0, 3, 1, 2))
    np.testing.assert_allclose(np.load(tmp_path / "f.npy"), expected, atol=2e-5)
    facts = json.loads((tmp_path / "f.json").read_text())
    assert facts["preprocessing"]["own_depth"] is True


def test_the_same_picture_in_8_and_16_bits_is_the_same(run, tmp_path):
    rng = np.random.default_rng(1)
    grey = rng.integers(0, 256, (40, 40), dtype=np.uint8)
    arrays = [grey, grey.astype(np.uint16) * 257, (grey / 255).astype(np.float32)]
    cv2.imwrite(str(tmp_path / "8.png"), arrays[0])
    cv2.imwrite(str(tmp_path / "16.png"), arrays[1])
    tifffile.imwrite(tmp_path / "float.tif", arrays[2])
    np.save(tmp_path / "float.npy", arrays[2])
    np.save(tmp_path / "fine.npy", arrays[1] + 1)  # a difference that 8 bits do not have
    files = [tmp_path / name for name in ("8.png", "16.png", "float.tif", "float.npy", "fine.npy")]
    feats = tmp_path / "f" / "f.npy"
    feats.parent.mkdir()
    exact = ["--device", "cpu", "--precision", "fp32"]
    dino("embed", *files, "--weights", run("g16"), "-o", feats, *exact)
    rows = np.load(feats)
    assert np.abs(rows[1:4] - rows[0]).max() < 2e-5
    assert np.abs(rows[4] - rows[1]).max() > 2e-5


@pytest.mark.parametrize("kind", KINDS)
def test_attention_knn_and_report_of_such_a_run(data, run, tmp_path, kind):
    folder, suffix = run(kind), KINDS[kind][0]
    photo = data / kind / "a" / f"0.{suffix}"
    exact = ["--device", "cpu", "--precision", "fp32"]
    dino("attention", photo, "--weights", folder, "-o", tmp_path / "a", *exact)
    attention = np.load(tmp_path / "a" / "0" / "attention.npy")
    weights = load(model="", weights=folder)
    net = build(weights.architecture)
    net.load_state_dict(weights.tensors)
    p = weights.preprocessing
    p = type(p)(**{**p.__dict__, "resize": weights.attention_size, "crop": None})
    p = type(p)(**{**p.__dict__, "interpolation": "bilinear", "multiple": 8})
    ready = build_transform(p)(read_samples(photo, len(p.mean)))
    x = normalize(torch.from_numpy(ready).permute(2, 0, 1)[None], p, torch.device("cpu"))
    expected = Backbone(net).cls_attention(x)[0].numpy()
    np.testing.assert_allclose(attention, expected, atol=1e-5)
    overlay = cv2.imread(str(tmp_path / "a" / "0" / "overlay_head0.png"))
    assert overlay.std() > 5  # something is seen
    dino("embed", data / kind, "--weights", folder, "-o", tmp_path / "f.npy", "--device", "cpu")
    predicted = tmp_path / "p.csv"
    dino("knn", data / kind, "--index", tmp_path / "f.npy", "-k", "1", "-o", predicted)
    nearest = predicted.read_text().splitlines()[1:]
    assert len(nearest) == 8
    assert all(line.count(f".{suffix}") >= 2 for line in nearest)
    dino("report", folder, "-o", tmp_path / "r.html")


def test_other_channels_are_refused_in_one_sentence(data, run, tmp_path):
    out = ["-o", tmp_path / "f.npy", "--device", "cpu"]
    result = dino("embed", data / "f5", "--weights", run("g16"), *out, code=1)
    assert "has 5 channels, and the model takes 1" in result.stderr
    config = ["--config", data / "small.toml", "-o", tmp_path / "run"]
    result = dino("train", data / "f5", *config, "--in-chans", "4", code=1)
    assert "has 5 channels, and the model takes 4" in result.stderr
    result = dino("train", data / "f5", *config, "--in-chans", "5", "--mean", "1", "2", code=2)
    assert "--mean 1 2 must be 5 numbers" in result.stderr
    result = dino("train", data / "f5", *config, "--in-chans", "5", "--views", "gpu", code=2)
    assert "5 channels" in result.stderr
    result = dino("train", data / "npy", *config, code=1)
    assert "--in-chans" in result.stderr


def test_mean_and_std_default_to_imagenets_or_their_mean(data):
    def means(*words):
        shown = dino("train", data / "g16", "--config", data / "small.toml", "--dry-run", *words)
        return json.loads(shown.stdout)

    assert means()["mean"] == list(IMAGENET_MEAN)
    assert means("--mean", ".1", "-.2", ".3", "--epochs", "3")["mean"] == [0.1, -0.2, 0.3]
    assert means("--std", "2", "--", data / "npy")["std"] == [2.0]
    from dino_cli.config.train import TrainConfig
    from dino_cli.tasks.train.setup import preprocessing_of

    p = preprocessing_of(TrainConfig(in_chans=2))
    assert p.mean == pytest.approx((sum(IMAGENET_MEAN) / 3,) * 2)
    assert p.std == pytest.approx((sum(IMAGENET_STD) / 3,) * 2)


@pytest.mark.slow
def test_colour_weights_start_a_grey_run_by_timms_rule(data, run, tmp_path):
    """Grey in three channels through the colour weights equals grey in one, with equal means."""
    colour, grey, five = (tmp_path / name for name in ("colour", "grey", "five"))
    rng = np.random.default_rng(0)
    (tmp_path / "photos").mkdir()
    for i in range(8):
        pixels = rng.integers(0, 255, (40, 40, 3), dtype=np.uint8)
        cv2.imwrite(str(tmp_path / "photos" / f"{i}.png"), pixels)
    config = ["--config", data / "small.toml", "--max-steps", "1"]
    dino("train", tmp_path / "photos", *config, "-o", colour)
    still = ["--init-from", colour, "--lr", "1e-30", "--min-lr", "0", "--weight-decay", "0"]
    still += ["--weight-decay-end", "0"]
    result = dino("train", data / "g16", *config, *still, "--in-chans", "1", "-o", grey)
    assert "summed for --in-chans 1" in result.stderr
    dino("train", data / "f5", *config, *still, "--in-chans", "5", "-o", five)
    one = rng.normal(size=(2, 1, 32, 32))
    expected = features_of(colour, np.repeat(one, 3, axis=1))
    np.testing.assert_allclose(features_of(grey, one), expected, atol=1e-4)
    first = "patch_embed.proj.weight"
    rgb, bands = (load(model="", weights=w).tensors[first] for w in (colour, five))
    torch.testing.assert_close(bands, rgb[:, [0, 1, 2, 0, 1]] * (3 / 5))
    result = dino("train", data / "npy", *config, *flags("npy"), "--init-from", run("f5"),
                  "-o", tmp_path / "no", code=1)  # fmt: skip
    assert result.stderr.endswith("; choose --in-chans 5\n")


def test_rectangular_views_make_a_rectangular_grid(data, tmp_path):
    run = tmp_path / "run"
    words = ["--config", data / "small.toml", "--global-size", "48x24", "--local-size", "24x16"]
    dino("train", data / "g16", *words, *flags("g16"), "-o", run, "--max-steps", "2")
    described = json.loads((run / "config.json").read_text())
    assert described["architecture"]["grid"] == [6, 3]
    assert described["preprocessing"]["crop"] == [48, 24]
    dino("train", "--resume", run, "--max-steps", "1")  # the sizes are read back
    out = tmp_path / "f.npy"
    dino("embed", data / "g16", "--weights", run, "-o", out, "--device", "cpu",
         "--features", "cls,patch", "--overwrite")  # fmt: skip
    assert np.load(tmp_path / "f.patch.npy").shape == (8, 6, 3, 32)
    attended = ["attention", data / "g16" / "a" / "0.png", "--weights", run, "-o", tmp_path / "a"]
    dino(*attended, "--device", "cpu", "--image-size", "48x24")
    assert np.load(tmp_path / "a" / "0" / "attention.npy").shape == (2, 6, 3)


@pytest.mark.slow
def test_rectangles_are_counted_and_checked(data):
    def cost(*words):
        given = ["train", data / "g16", "--config", data / "small.toml", "--dry-run", "--json"]
        return json.loads(dino(*given, *words).stdout)

    wide, square = cost("--global-size", "32x64"), cost("--global-size", "32")
    assert wide["global_size"] == [32, 64]
    assert cost("--global-size", "32x32")["global_size"] == 32
    tokens = 1 + 4 * 8, 1 + 4 * 4
    assert wide["cost"]["parameters"]["backbone"] - square["cost"]["parameters"]["backbone"] == (
        32 * (tokens[0] - tokens[1])
    )
    assert wide["cost"]["memory_gib"] >= square["cost"]["memory_gib"]
    config = ["--config", data / "small.toml", "-o", "never"]
    result = dino("train", data / "g16", *config, "--global-size", "48x30", code=2)
    assert "--global-size 30 is not a whole number of 8-pixel patches" in result.stderr
    result = dino("train", data / "g16", *config, "--global-size", "48x", code=2)
    assert "'48x' is not a size" in result.stderr
    sizes = ["--global-size", "48x24", "--final-size", "64", "32"]
    result = dino("train", data / "g16", *config, *sizes, code=2)
    assert "--final-size gives sides of squares" in result.stderr


def test_rectangles_reach_other_processes_as_they_were_typed():
    from dino_cli.config.setting import arguments
    from dino_cli.config.train import TrainConfig

    config = TrainConfig(data=("x",), global_size=(48, 24), mean=(0.5, -1.0))
    words = arguments(config, {"data", "global_size", "mean"})
    assert words == ["--global-size", "48x24", "--mean", "0.5", "-1.0", "--", "x"] or (
        words == ["--mean", "0.5", "-1.0", "--global-size", "48x24", "--", "x"]
    )


def test_arrays_in_a_shard_are_those_of_the_folder(data, run, tmp_path):
    folder, shard = run("npy"), tmp_path / "arrays.tar"
    with tarfile.open(shard, "w") as tar:
        tar.add(data / "npy", "npy")
    for source, name in ((data / "npy", "folder"), (shard, "shard")):
        dino(
            "embed", source, "--weights", folder, "-o", tmp_path / f"{name}.npy", "--device", "cpu"
        )
    a, b = (np.load(tmp_path / f"{name}.npy") for name in ("folder", "shard"))
    assert len(a) == 8
    assert np.array_equal(a, b)
    told = dino("embed", shard, "--model", "dino_demo", "-o", tmp_path / "no.npy", code=1)
    assert "an array, which models of other --in-chans than 3 read" in told.stderr


def test_a_last_step_that_is_not_finite_leaves_json_that_others_read(data, tmp_path):
    for i in range(8):
        np.save(tmp_path / f"{i}.npy", np.full((40, 40), 1.5e38, np.float32))
    words = ["train", tmp_path, "--config", data / "small.toml", "--in-chans", "1", "--watch", "0"]
    words += ["--max-steps", "1"]
    told = dino(*words, "-o", tmp_path / "run", "--json").stdout
    assert json.loads(told, parse_constant=pytest.fail)["loss"] is None
    assert "nan" not in dino(*words, "-o", tmp_path / "again").stdout


def test_a_picture_that_overflows_is_told_each_time_and_counts_in_no_mean(data, tmp_path):
    """One of eight, in steps of two: in each epoch a step that is not finite, which changes nothing
    and ends nothing."""
    for i in range(8):
        field = np.load(data / "npy" / "ab"[i // 4] / f"{i}.npy")[..., 0]
        np.save(tmp_path / f"{i}.npy", field if i else np.full_like(field, 1.5e38))
    words = ["train", tmp_path, "--config", data / "small.toml", "--in-chans", "1", "--watch", "0"]
    words += ["--mean", "0", "--std", "0.1", "--batch-size", "2", "--epochs", "4", "--lr", "1e-4"]
    said = dino(*words, "-o", tmp_path / "run").stderr
    entries = Log.read(tmp_path / "run/log.jsonl")
    bad = [entry["step"] for entry in entries if entry.get("loss", 0) is None]
    assert [step // 4 for step in bad] == [0, 1, 2, 3]
    told = [line.partition(" a loss")[0] for line in said.splitlines() if "not finite" in line]
    assert told == [f"dino: up to step {step}, 1 step with" for step in bad]
    for epoch in range(4):
        (mean,) = (e["epoch_loss"] for e in entries if "epoch_loss" in e and e["epoch"] == epoch)
        good = [e["loss"] for e in entries if e["epoch"] == epoch and e.get("loss")]
        assert len(good) == 3
        assert mean == pytest.approx(sum(good) / 3, rel=1e-6)
