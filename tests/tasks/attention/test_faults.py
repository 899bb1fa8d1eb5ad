"""`dino attention`: unreadable photos, existing results, interruptions, misuse."""

import csv
import json
import math

import numpy as np
import pytest
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file
from small_vit import files_in, photo, pictures_of, small_vit


def test_unreadable_files_are_skipped_and_named(attention, tmp_path):
    photo(tmp_path / "in" / "a.png")
    (tmp_path / "in" / "b.png").write_bytes(b"not a picture")
    (tmp_path / "in" / "c.png").write_bytes(b"")
    result = json.loads(attention(tmp_path / "in", "--json").stdout)
    assert [row["input"] for row in result["images"]] == [str(tmp_path / "in" / "a.png")]
    assert result["skipped"] == 2
    with (tmp_path / "attention" / "skipped.csv").open(newline="") as lines:
        rows = list(csv.DictReader(lines))
    assert [row["path"] for row in rows] == [str(tmp_path / "in" / n) for n in ("b.png", "c.png")]
    assert all(row["reason"] for row in rows)
    assert files_in(tmp_path / "attention") == {"a", "skipped.csv"}

    photo(tmp_path / "in" / "b.png")  # repaired: it leaves the list, the other stays
    attention(tmp_path / "in" / "b.png")
    with (tmp_path / "attention" / "skipped.csv").open(newline="") as lines:
        assert [row["path"] for row in csv.DictReader(lines)] == [str(tmp_path / "in" / "c.png")]


@pytest.mark.parametrize("good", [True, False])
def test_strict_and_nothing_readable_leave_nothing(attention, tmp_path, good):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "b.png").write_bytes(b"not a picture")
    if good:
        for i in range(6):
            photo(tmp_path / "in" / f"a{i}.png")
    options = ["--strict", "--batch-size", "2"] if good else []
    result = attention(tmp_path / "in", *options, code=1)
    assert "b.png" in result.stderr
    assert not (tmp_path / "attention").exists()


def test_existing_results_are_kept_unless_overwritten(attention, tmp_path):
    picture = photo(tmp_path / "cat.png")
    attention(picture)
    folder = tmp_path / "attention" / "cat"
    before = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    other = photo(tmp_path / "dog.png")
    result = attention(other, picture, code=1)
    assert "already exists" in result.stderr
    assert {path.name: path.stat().st_mtime_ns for path in folder.iterdir()} == before
    assert not (tmp_path / "attention" / "dog").exists()
    attention(other, picture, "--overwrite", "--head", "mean")
    assert files_in(folder) == pictures_of("mean") | {"attention.npy", "grid.png"}


def test_interruption_leaves_whole_results_only(attention, tmp_path, monkeypatch):
    for i in range(6):
        photo(tmp_path / "in" / f"{i}.png", seed=i)
    from dino_cli.tasks.attention import stills as task

    calls = []

    def interrupted(*arguments):
        calls.append(0)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return look(*arguments)

    look = task.attend
    monkeypatch.setattr(task, "attend", interrupted)
    result = attention(tmp_path / "in", "--batch-size", 2, code=130)
    assert "of 6 inputs are done" in result.stderr
    done = sorted(path.name for path in (tmp_path / "attention").iterdir())
    assert set(done) <= {"0", "1", "2", "3"}
    whole = pictures_of("head0", "head1", "head2") | {"attention.npy", "grid.png"}
    for name in done:
        assert files_in(tmp_path / "attention" / name) == whole


def test_interruption_lists_what_could_not_be_read(attention, tmp_path, monkeypatch):
    from dino_cli.tasks.attention import look, stills

    for i in range(5):
        photo(tmp_path / "in" / f"{i}.png")
    (tmp_path / "in/1.png").write_bytes(b"-")
    calls = []

    def interrupted(*arguments):
        calls.append(0)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return look.attend(*arguments)

    monkeypatch.setattr(stills, "attend", interrupted)
    attention("in", "--batch-size", 1, "--workers", 1, code=130)
    assert "in/1.png,not a picture" in (tmp_path / "attention/skipped.csv").read_text()


@pytest.mark.parametrize("shared", [[], ["--html", "--format", "coco"]])
def test_interruption_before_anything_is_done_leaves_nothing(
    attention, tmp_path, monkeypatch, shared
):
    from dino_cli.tasks.attention import stills

    def interrupted(*_):
        raise KeyboardInterrupt

    photo(tmp_path / "cat.png")
    monkeypatch.setattr(stills, "attend", interrupted)
    assert "0 of 1 inputs are done" in attention("cat.png", *shared, code=130).stderr
    assert not (tmp_path / "attention").exists()


def test_failure_to_write_is_told_and_leaves_nothing(attention, tmp_path, monkeypatch):
    photos = [photo(tmp_path / f"{i}.png") for i in range(3)]
    from dino_cli.store.writing.folders import ResultFolders

    write = ResultFolders.write

    def full(self, name, files):
        if str(name) == "2":
            raise OSError(28, "No space left on device")
        return write(self, name, files)

    monkeypatch.setattr(ResultFolders, "write", full)
    result = attention(*photos, "--batch-size", 1, code=1)
    assert "No space left" in result.stderr
    assert not (tmp_path / "attention").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--head", "3"], "head 3 asked for"),
        (["--head", "0,4"], "head 4 asked for"),
        (["--head", "²"], "--head '²'"),
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
def test_misuse(attention, tmp_path, options, message):
    result = attention(photo(tmp_path / "cat.png"), *options, code=2)
    assert message in result.stderr
    assert not (tmp_path / "attention").exists()


def test_no_image_is_misuse(attention):
    assert "no picture given" in attention(code=2).stderr


def test_missing_image_and_missing_parent(attention, tmp_path):
    assert "'no.png' does not exist" in attention("no.png", code=1).stderr
    result = attention(photo(tmp_path / "cat.png"), "-o", "no/out", code=1)
    assert "'no' does not exist" in result.stderr


def test_a_convnet_is_refused_with_the_reason(attention, tmp_path):
    import timm

    name = "test_resnet.r160_in1k"
    net = timm.create_model(name, pretrained=False)
    save_file(net.state_dict(), tmp_path / "net.safetensors")
    result = attention(
        photo(tmp_path / "cat.png"), "--weights", tmp_path / "net.safetensors", "--arch", name,
        code=2,
    )  # fmt: skip
    assert "has no attention" in result.stderr
    assert "convnet" in result.stderr


def test_attention_that_is_not_finite_is_an_error(attention, tmp_path, small_vit_weights):
    tensors = small_vit().state_dict()
    tensors["blocks.1.attn.qkv.weight"] *= 1e30
    with safe_open(small_vit_weights, "np") as file:
        save_file(tensors, "large.safetensors", metadata=file.metadata())
    said = attention(photo(tmp_path / "cat.png"), "--weights", "large.safetensors", code=1).stderr
    assert "finite" in said
    assert not (tmp_path / "attention").exists()


def test_a_strip_that_would_be_too_large_is_skipped(attention, tmp_path):
    Image.new("RGB", (60_000, 10)).save(tmp_path / "strip.png")
    result = attention(photo(tmp_path / "cat.png"), tmp_path / "strip.png", "--json")
    assert json.loads(result.stdout)["skipped"] == 1
    reason = (tmp_path / "attention" / "skipped.csv").read_text()
    assert "too many" in reason or "would become" in reason
    assert "--image-size 480x480" in reason
    assert math.isfinite(np.load(tmp_path / "attention/cat/attention.npy").sum())
    alone = attention("strip.png", "-o", "alone", code=1).stderr
    assert "'strip.png': 288000 x 48 pixels after resizing are too many; stretch" in alone
    attention("strip.png", "-o", "alone", "--image-size", "64x96")
