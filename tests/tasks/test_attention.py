"""`dino attention`, through the command line, on small photos and a small random network."""

import csv
import json
import math

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn
from typer.testing import CliRunner

from dino_cli.cli.app import app
from dino_cli.config.shared import Preprocessing
from dino_cli.core.attention import threshold_mass
from dino_cli.core.backbone import Backbone, architecture_to_json, build
from dino_cli.core.vit import VitArchitecture

ARCHITECTURE = VitArchitecture(width=24, depth=2, heads=3, patch_size=8, grid=(4, 4))
SIDE, PATCH = 48, 8


@pytest.fixture(scope="module")
def net() -> nn.Module:
    torch.manual_seed(0)
    made = build(ARCHITECTURE).eval()
    with torch.no_grad():
        for name, tensor in made.named_parameters():
            if name.endswith(("qkv.weight", "proj.weight")):
                tensor.normal_(0, 0.2)
    return made


@pytest.fixture(scope="module")
def weights(net, tmp_path_factory):
    """A bare file of weights that says what it is, as `dino train` leaves it."""
    from dataclasses import asdict

    path = tmp_path_factory.mktemp("weights") / "teacher.safetensors"
    about = {
        "architecture": architecture_to_json(ARCHITECTURE),
        "preprocessing": asdict(Preprocessing(resize=36, crop=32)),
        "attention_size": SIDE,
    }
    save_file(net.state_dict(), path, metadata={"dino": json.dumps(about)})
    return path


@pytest.fixture
def run(weights, tmp_path, monkeypatch):
    """Run the command in an empty folder with the small network; gives its result."""
    monkeypatch.chdir(tmp_path)

    def invoke(*arguments, code=0):
        line = ["attention", *map(str, arguments)]
        if "--weights" not in line and "--model" not in line:
            line += ["--weights", str(weights)]
        result = CliRunner().invoke(app, [*line, "--device", "cpu", "--precision", "fp32", "-q"])
        assert result.exit_code == code, result.output
        return result

    return invoke


def _photo(path, size=(70, 50), seed=0):
    """A noisy photo with a bright disc; size: width, height."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[: size[1], : size[0]]
    disc = (y - size[1] / 2) ** 2 + (x - size[0] / 2) ** 2 < (min(size) / 3) ** 2
    pixels = np.where(disc[..., None], (230, 150, 40), (30, 60, 120))
    pixels = pixels + rng.normal(0, 20, (size[1], size[0], 3))
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(path)
    return path


def _size(path):
    with Image.open(path) as picture:
        return picture.size


def _mask(path):
    values = np.asarray(Image.open(path))
    assert set(np.unique(values)) <= {0, 255}
    return values > 0


def _expected_attention(net, path, size):
    """The documented steps written out: size is (height, width) before the trim."""
    image = Image.open(path).convert("RGB").resize(size[::-1], Image.Resampling.BILINEAR)
    h, w = size[0] // PATCH, size[1] // PATCH
    x = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None, :, : h * PATCH, : w * PATCH] / 255
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (Preprocessing().mean, Preprocessing().std))
    return Backbone(net).cls_attention((x - mean) / std)[0]


@pytest.mark.parametrize(
    ("option", "size"),
    [
        ([], (SIDE, SIDE * 70 // 50)),  # the weights' own size
        (["--image-size", "40"], (40, 56)),
        (["--image-size", "45x37"], (45, 37)),
    ],
)
def test_attention_and_masks_are_those_of_the_network(run, net, tmp_path, option, size):
    photo = _photo(tmp_path / "cat.png")
    run(photo, *option, "--head", "all,mean")
    expected = _expected_attention(net, photo, size)
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


def test_trimmed_borders_are_zero_in_every_mask(run, tmp_path):
    run(_photo(tmp_path / "cat.png"), "--image-size", "47x47", "--threshold", "1")
    for path in (tmp_path / "attention" / "cat").glob("mask_*"):
        seen = _mask(path)
        assert seen[:42, :59].all()  # 40 of 47 pixels lie in whole patches
        assert not seen[43:].any()
        assert not seen[:, 60:].any()


def _files(folder):
    return {path.name for path in folder.iterdir()}


def _set(*names):
    return {f"{kind}_{name}.png" for name in names for kind in ("heat", "overlay", "mask")}


@pytest.mark.parametrize(
    ("options", "pictures"),
    [
        ([], _set("head0", "head1", "head2")),
        (["--head", "mean"], _set("mean")),
        (["--head", "best"], _set("best")),
        (["--head", "2,0,2"], _set("head0", "head2")),
        (["--masks", "seeded"], {"mask_seeded.png", "overlay_seeded.png"}
         | {f"heat_head{j}.png" for j in range(3)}),
        (["--masks", "cut", "--head", "best", "--refine", "guided"],
         {"mask_cut.png", "overlay_cut.png", "heat_best.png"}),
    ],
)  # fmt: skip
def test_files_of_each_choice(run, tmp_path, options, pictures):
    run(_photo(tmp_path / "cat.png"), *options)
    assert _files(tmp_path / "attention" / "cat") == pictures | {"attention.npy", "grid.png"}


def test_best_head_is_one_of_the_heads_and_is_reported(run, tmp_path):
    photos = [_photo(tmp_path / f"{i}.png", seed=i) for i in range(3)]
    result = json.loads(run(*photos, "--head", "all,best", "--json").stdout)
    for row in result["images"]:
        folder = tmp_path / row["folder"]
        head = row["best_head"]
        assert (folder / "mask_best.png").read_bytes() == (
            folder / f"mask_head{head}.png"
        ).read_bytes()


def test_refined_masks_follow_the_photo(run, tmp_path):
    photo = _photo(tmp_path / "cat.png", size=(90, 90))
    run(photo, "--masks", "seeded", "-o", tmp_path / "plain")
    run(photo, "--masks", "seeded", "--refine", "guided", "-o", tmp_path / "fitted")
    plain, fitted = (_mask(tmp_path / k / "cat" / "mask_seeded.png") for k in ("plain", "fitted"))
    assert plain.shape == fitted.shape == (90, 90)
    # Blocks change at patch borders only: 90 / 6 pixels apart
    assert not np.diff(plain.astype(int), axis=1)[:, 0].any()
    assert plain.reshape(6, 15, 6, 15).std(axis=(1, 3)).max() == 0
    assert fitted.reshape(6, 15, 6, 15).std(axis=(1, 3)).max() > 0


def test_result_as_json(run, tmp_path):
    a, b = _photo(tmp_path / "in" / "a.png"), _photo(tmp_path / "in" / "x" / "b.png", (50, 70))
    result = json.loads(run(tmp_path / "in", "-o", tmp_path / "out", "--json").stdout)
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


def test_many_sizes_and_batches_give_what_single_photos_give(run, tmp_path):
    sizes = [(70, 50), (50, 70), (70, 50), (64, 64), (70, 50), (50, 70), (70, 50)]
    for i, size in enumerate(sizes):
        _photo(tmp_path / "in" / f"{i}.png", size, seed=i)
    run(tmp_path / "in", "-o", "many", "--batch-size", 3, "--head", "mean")
    for i in range(len(sizes)):
        run(tmp_path / "in" / f"{i}.png", "-o", "single", "--batch-size", 1, "--workers", 0)
        many, single = (np.load(tmp_path / k / f"{i}/attention.npy") for k in ("many", "single"))
        np.testing.assert_allclose(many, single, rtol=1e-4, atol=1e-7)


def test_equal_names_get_folders_of_their_own(run, tmp_path):
    photos = [_photo(tmp_path / name, seed=i) for i, name in enumerate(
        ["a/cat.png", "b/cat.png", "cat.jpg"])]  # fmt: skip
    result = json.loads(run(*photos, "--head", "mean", "--json").stdout)
    folders = [row["folder"] for row in result["images"]]
    assert len(set(folders)) == 3
    assert len({(tmp_path / f / "attention.npy").read_bytes() for f in folders}) == 3


def test_exif_rotation(run, tmp_path):
    photo = Image.open(_photo(tmp_path / "flat.png"))
    tag = Image.Exif()
    tag[0x0112] = 6
    photo.save(tmp_path / "turned.jpg", exif=tag)
    run(tmp_path / "turned.jpg", "--head", "mean", "-o", "turned")
    run(tmp_path / "turned.jpg", "--head", "mean", "-o", "raw", "--no-exif")
    assert _size(tmp_path / "turned/turned/mask_mean.png") == (50, 70)
    assert _size(tmp_path / "raw/turned/mask_mean.png") == (70, 50)


# What goes wrong


def test_unreadable_files_are_skipped_and_named(run, tmp_path):
    _photo(tmp_path / "in" / "a.png")
    (tmp_path / "in" / "b.png").write_bytes(b"not a picture")
    (tmp_path / "in" / "c.png").write_bytes(b"")
    result = json.loads(run(tmp_path / "in", "--json").stdout)
    assert [row["input"] for row in result["images"]] == [str(tmp_path / "in" / "a.png")]
    assert result["skipped"] == 2
    with (tmp_path / "attention" / "skipped.csv").open(newline="") as lines:
        rows = list(csv.DictReader(lines))
    assert [row["path"] for row in rows] == [str(tmp_path / "in" / n) for n in ("b.png", "c.png")]
    assert all(row["reason"] for row in rows)
    assert _files(tmp_path / "attention") == {"a", "skipped.csv"}

    _photo(tmp_path / "in" / "b.png")  # repaired: it leaves the list, the other stays
    run(tmp_path / "in" / "b.png")
    with (tmp_path / "attention" / "skipped.csv").open(newline="") as lines:
        assert [row["path"] for row in csv.DictReader(lines)] == [str(tmp_path / "in" / "c.png")]


@pytest.mark.parametrize("good", [True, False])
def test_strict_and_nothing_readable_leave_nothing(run, tmp_path, good):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "b.png").write_bytes(b"not a picture")
    if good:
        for i in range(6):
            _photo(tmp_path / "in" / f"a{i}.png")
    options = ["--strict", "--batch-size", "2"] if good else []
    result = run(tmp_path / "in", *options, code=1)
    assert "b.png" in result.stderr
    assert not (tmp_path / "attention").exists()


def test_existing_results_are_kept_unless_overwritten(run, tmp_path):
    photo = _photo(tmp_path / "cat.png")
    run(photo)
    folder = tmp_path / "attention" / "cat"
    before = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    other = _photo(tmp_path / "dog.png")
    result = run(other, photo, code=1)
    assert "already exists" in result.stderr
    assert {path.name: path.stat().st_mtime_ns for path in folder.iterdir()} == before
    assert not (tmp_path / "attention" / "dog").exists()
    run(other, photo, "--overwrite", "--head", "mean")
    assert _files(folder) == _set("mean") | {"attention.npy", "grid.png"}


def test_interruption_leaves_whole_results_only(run, tmp_path, monkeypatch):
    for i in range(6):
        _photo(tmp_path / "in" / f"{i}.png", seed=i)
    from dino_cli.tasks.attention import stills as task

    calls = []

    def interrupted(*arguments):
        calls.append(0)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return look(*arguments)

    look = task.look
    monkeypatch.setattr(task, "look", interrupted)
    result = run(tmp_path / "in", "--batch-size", 2, code=130)
    assert "of 6 inputs are done" in result.stderr
    done = sorted(path.name for path in (tmp_path / "attention").iterdir())
    assert set(done) <= {"0", "1", "2", "3"}
    whole = _set("head0", "head1", "head2") | {"attention.npy", "grid.png"}
    for name in done:
        assert _files(tmp_path / "attention" / name) == whole


def test_failure_to_write_is_told_and_leaves_nothing(run, tmp_path, monkeypatch):
    photos = [_photo(tmp_path / f"{i}.png") for i in range(3)]
    from dino_cli.store.folders import ResultFolders

    write = ResultFolders.write

    def full(self, name, files):
        if str(name) == "2":
            raise OSError(28, "No space left on device")
        return write(self, name, files)

    monkeypatch.setattr(ResultFolders, "write", full)
    result = run(*photos, "--batch-size", 1, code=1)
    assert "No space left" in result.stderr
    assert not (tmp_path / "attention").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--head", "3"], "head 3 asked for"),
        (["--head", "-1"], "--head '-1'"),
        (["--head", "first"], "--head 'first'"),
        (["--head", ""], "--head ''"),
        (["--threshold", "0"], "threshold 0"),
        (["--threshold", "1.5"], "threshold 1.5"),
        (["--threshold", "nan"], "threshold nan"),
        (["--image-size", "480x"], "'480x'"),
        (["--image-size", "0"], "'0'"),
        (["--image-size", "a"], "'a'"),
        (["--image-size", "7"], "smaller than one patch of 8"),
        (["--image-size", "48x7"], "smaller than one patch of 8"),
        (["--batch-size", "0"], "batch size 0"),
        (["--workers", "-1"], "-1 workers"),
        (["--masks", "none"], "--masks"),
    ],
)
def test_misuse(run, tmp_path, options, message):
    result = run(_photo(tmp_path / "cat.png"), *options, code=2)
    assert message in result.stderr
    assert not (tmp_path / "attention").exists()


def test_no_image_is_misuse(run):
    assert "no picture given" in run(code=2).stderr


def test_missing_image_and_missing_parent(run, tmp_path):
    assert "'no.png' does not exist" in run("no.png", code=1).stderr
    result = run(_photo(tmp_path / "cat.png"), "-o", "no/out", code=1)
    assert "'no' does not exist" in result.stderr


def test_a_convnet_is_refused_with_the_reason(run, tmp_path):
    import timm

    name = "test_resnet.r160_in1k"
    net = timm.create_model(name, pretrained=False)
    save_file(net.state_dict(), tmp_path / "net.safetensors")
    result = run(
        _photo(tmp_path / "cat.png"), "--weights", tmp_path / "net.safetensors", "--arch", name,
        code=2,
    )  # fmt: skip
    assert "has no attention" in result.stderr
    assert "convnet" in result.stderr


def test_a_strip_that_would_be_too_large_is_skipped(run, tmp_path):
    Image.new("RGB", (60_000, 10)).save(tmp_path / "strip.png")
    result = run(_photo(tmp_path / "cat.png"), tmp_path / "strip.png", "--json")
    assert json.loads(result.stdout)["skipped"] == 1
    reason = (tmp_path / "attention" / "skipped.csv").read_text()
    assert "too many" in reason or "would become" in reason
    assert math.isfinite(np.load(tmp_path / "attention/cat/attention.npy").sum())
