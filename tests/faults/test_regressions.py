"""What the long turns of the scripts beside this file found, small enough to try each time."""

import csv
import json
import os
import tarfile
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
from in_process import dino
from small_vit import photo, write_small_vit
from typer.testing import CliRunner

from dino_cli.cli.app import app
from dino_cli.config.knn import KnnConfig
from dino_cli.config.shared import Preprocessing
from dino_cli.config.values import as_type
from dino_cli.data.listing.images import find_images
from dino_cli.errors import TaskError, UsageError
from dino_cli.store.embeddings.blocks import Blocks
from dino_cli.store.embeddings.reading import read_embeddings
from dino_cli.store.embeddings.sources import read_sources, sources_path
from dino_cli.store.runs.checkpoints import find_checkpoint
from dino_cli.store.runs.curves import draw_loss
from dino_cli.store.runs.folder import RunFolder
from dino_cli.store.runs.log import Log
from dino_cli.store.runs.watched import read_attention
from dino_cli.store.weights.load import load
from dino_cli.store.weights.preprocessing import (
    from_huggingface,
    from_timm,
    preprocessing_from_json,
)
from dino_cli.store.writing.atomic import atomic_write
from dino_cli.store.writing.locks import lock_output
from dino_cli.tasks.demo.training import MOMENTS, read_moments
from dino_cli.tasks.eval.linear.training import kept_tensor
from dino_cli.tasks.eval.video.labels import RegionScores
from dino_cli.tasks.eval.video.results import VideoScore, is_score
from dino_cli.tasks.export import training_beside
from dino_cli.tasks.provenance import recorded_preprocessing, with_recorded_network
from dino_cli.tasks.report import charts_of

STEP = {"step": 3, "epoch": 0, "loss": 2.5, "lr": 0.1}


def test_a_number_too_large_for_a_float():
    with pytest.raises(UsageError, match=r"\.\.\.0+, which is not a number"):
        as_type(10**400, float, "lr", Path("c.toml"), "dino train")


def test_lines_of_a_log_that_are_none(tmp_path):
    wrong = ["[" * 100_000, "7", "null", "[]", '{"step": "3", "loss": 1}', '{"step": 3}']
    wrong += ['{"step": 3, "loss": [1]}', '{"step": true, "loss": 1}', '{"step": -1, "loss": 1}']
    wrong += ['{"step": 3, "loss": 1, "lr": ' + "9" * 400 + "}", '{"epoch": {}}', "\x00"]
    (tmp_path / "log.jsonl").write_text(
        "\n".join([*wrong, json.dumps(STEP), json.dumps(STEP)[:-5]])
    )
    assert Log.read(tmp_path / "log.jsonl") == [STEP]


def test_figures_that_are_missing_or_not_finite_are_not_drawn(tmp_path):
    lines = [STEP, {**STEP, "step": 4, "loss": float("inf")}, {**STEP, "step": 5, "loss": 2.0}]
    lines += [{**STEP, "step": 6, "loss": float("nan"), "target_spread": 1e400}]
    draw_loss(lines, tmp_path / "loss.png")
    assert (tmp_path / "loss.png").stat().st_size > 1000
    assert len(charts_of(lines, {})["learning"]) == 1


def test_an_npy_header_that_python_cannot_read(tmp_path):
    """NumPy's own fallback for old files raises what it does not announce."""
    path = tmp_path / "f.npy"
    path.with_suffix(".csv").write_text("path,label\na,b\n")
    path.with_suffix(".json").write_text('{"format": 1, "features": "cls"}')
    np.save(path, np.ones((1, 4), np.float32))
    content = bytearray(path.read_bytes())
    for at in range(10, 120):
        for byte in (0, ord("("), ord("'"), 0xFF):
            changed = content.copy()
            changed[at] = byte
            path.write_bytes(changed)
            try:
                read_embeddings(path)
            except TaskError as error:
                assert "f.npy" in str(error)  # noqa: PT017


def test_digests_that_are_none(tmp_path):
    for text in ("\udcff" * 64 + "  a", "g" * 64 + "  a", "A" * 64 + "  a"):
        with sources_path(tmp_path / "f.npy").open("w", errors="surrogateescape") as file:
            file.write(text + "\n")
        with pytest.raises(TaskError, match="without a SHA-256"):
            read_sources(tmp_path / "f.npy", 1)


def test_a_damaged_stream_inside_an_archive_is_left_out(tmp_path):
    path = tmp_path / "attention-00001.npz"
    np.savez_compressed(path, attention=np.random.default_rng(0).random((1, 2, 4, 4)))
    good = path.read_bytes()
    for at in range(30, len(good), 3):
        path.write_bytes(good[:at] + bytes([good[at] ^ 0xFF]) + good[at + 1 :])
        read_attention(tmp_path)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors.index.json"])
def test_json_that_is_nested_without_end(tmp_path, name):
    (tmp_path / name).write_text("[" * 200_000)
    with pytest.raises(TaskError):
        load(model="", weights=tmp_path)
    for words in (["report", tmp_path], ["train", "--resume", tmp_path]):
        result = CliRunner().invoke(app, [str(word) for word in words])
        assert result.exit_code == 1
        assert isinstance(result.exception, SystemExit)


def test_toml_that_is_nested_without_end(tmp_path):
    (tmp_path / "c.toml").write_text("a = " + "[" * 200_000)
    words = ["train", str(tmp_path), "--config", str(tmp_path / "c.toml"), "--dry-run"]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 1
    assert "is not a TOML file" in result.stderr


def test_a_list_with_nul_bytes(tmp_path):
    (tmp_path / "list.txt").write_bytes(b"a\0.png\nb.png\n")
    words = ["embed", str(tmp_path / "list.txt"), "-o", str(tmp_path / "f.npy")]
    result = CliRunner().invoke(app, [*words, "--model", "dino_demo"])
    assert result.exit_code == 1
    assert "holds NUL bytes" in result.stderr


def _header(name: str, size: int, kind: bytes = tarfile.REGTYPE) -> bytes:
    """Of a member of a tar that says this size, in binary as large ones are."""
    member = tarfile.TarInfo(name)
    member.type = kind
    block = bytearray(member.tobuf(tarfile.USTAR_FORMAT)[:512])
    block[124:136] = (b"\xff" if size < 0 else b"\x80") + size.to_bytes(11, "big", signed=True)
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


@pytest.mark.parametrize(
    "content",
    [
        _header("a.png", 0) + _header("b.png", -512),  # leads to itself again
        _header("a.png", 0) + _header("b.png", -1) + bytes(512),
        _header("a.png", 0) + _header("b", 2**70, tarfile.XHDTYPE) + bytes(512),
        _header("a.png", 0) + _header("b", 2**45, tarfile.GNUTYPE_LONGNAME) + bytes(512),
    ],
)
def test_sizes_in_a_tar_that_no_file_has(tmp_path, content):
    (tmp_path / "a.tar").write_bytes(content + bytes(1024))
    with pytest.raises(TaskError, match="not a readable tar"):
        find_images([str(tmp_path / "a.tar")])


def test_offline_fetches_no_shard_either(tmp_path, monkeypatch):
    monkeypatch.setenv("DINO_CACHE", str(tmp_path / "cache"))
    url = "http://127.0.0.1:9/a.tar"
    with pytest.raises(TaskError, match="--offline asks no network"):
        find_images([url], offline=True)
    weights = write_small_vit(tmp_path / "w.safetensors")
    words = ("--weights", weights, "--offline", "-o", tmp_path / "out.npy", "--device", "cpu")
    said = dino("embed", url, *words, code=1).stderr
    assert "--offline asks no network" in said


def test_paths_in_other_columns_are_no_formulas(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for i, name in enumerate(("=1+1", "@b", "c", "d")):
        photo(Path(f"{name}.png"), seed=i // 2)
    Path("list.txt").write_text("".join(f"{n}.png\t{n}\n" for n in ("=1+1", "@b", "c", "d")))
    write_small_vit(Path("w.safetensors"))
    cpu = ("--device", "cpu", "--workers", 0)
    dino("embed", "list.txt", "--weights", "w.safetensors", "-o", "f.npz", *cpu)
    dino("knn", "--index", "f.npz", "-k", 2, "-o", "p.csv", "--neighbors", 3, "--device", "cpu")
    dino("knn", "--index", "f.npz", "--duplicates", 0.999, "-o", "d.csv", "--device", "cpu")
    for file, columns in (("p.csv", ("path", "neighbor1")), ("d.csv", ("path", "duplicate"))):
        with Path(file).open(newline="") as table:
            rows = list(csv.DictReader(table))
        found = {row[name] for row in rows for name in columns}
        assert found & {"./=1+1.png", "./@b.png"}
        assert not any(cell.startswith(("=", "@")) for cell in found)


def test_files_get_their_mode_while_other_threads_write(tmp_path, monkeypatch):
    """Without a moment at which the whole process makes files that anybody may write."""
    before = os.umask(0o027)
    try:
        monkeypatch.setattr(os, "umask", lambda mask: pytest.fail("changed"))
        with atomic_write(tmp_path / "a") as temporary:
            assert temporary.stat().st_mode & 0o777 == 0o600
            temporary.write_text("a")
    finally:
        monkeypatch.undo()
        os.umask(before)
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o640


def test_a_classifier_that_is_not_of_this_run(tmp_path):
    fresh = torch.zeros(1, 2, 3)
    kept = kept_tensor(tmp_path, torch.ones(1, 2, 3), fresh)
    assert torch.equal(kept, fresh + 1)
    for found in (torch.ones(1, 2, 2), fresh.double(), fresh.to_sparse(), "x", None):
        with pytest.raises(TaskError, match="does not hold the classifier"):
            kept_tensor(tmp_path, found, fresh)


def test_scores_that_are_none():
    good = RegionScores([[0.5, 1]], [[0.5, 0]])
    assert is_score(VideoScore("a", 1, 4, 0.1, good, good), "a")
    for lists in ([], [[0.5]], [["x", 1]], ["ab"], "a", [[0.5, 1], [0.5, 1]], None):
        for wrong in (RegionScores(lists, good.contour), RegionScores(good.region, lists)):
            assert not is_score(VideoScore("a", 1, 4, 0.1, good, wrong), "a")
    assert not is_score(VideoScore("a", None, 4, 0.1, good, good), "a")
    assert not is_score(VideoScore("\ud800", 1, 4, 0.1, good, good), "a")
    for number in (float("nan"), -1, 10**400):
        assert not is_score(VideoScore("a", 1, 4, number, good, good), "a")
        wrong = RegionScores([[0.5, number]], [[0.5, 0]])
        assert not is_score(VideoScore("a", 1, 4, 0.1, good, wrong), "a")


@pytest.mark.parametrize("moments", ["[1]", '[{"step": "x"}]', '"ab"', "[" * 200_000, "null"])
def test_moments_of_a_demo_that_are_none(tmp_path, moments):
    (tmp_path / MOMENTS).write_text('{"seed": 0, "moments": ' + moments + "}")
    with pytest.raises(TaskError, match="is damaged"):
        read_moments(tmp_path, seed=0)


INFINITE = float("inf")
WRONG = [
    *({"crop": wrong} for wrong in (INFINITE, 2**60, 0, -1, 1.5, True, "x", [1], [1, 2, 3], {})),
    *({"mean": wrong} for wrong in ([INFINITE] * 3, [0.5], [], "abc", None, [None] * 3, 1)),
    *({"std": wrong} for wrong in ([0] * 3, [float("nan")] * 3, [-1, 1, 1])),
    *({"interpolation": "x"}, {"multiple": 0}, {"exif": 1}, {"own_depth": "x"}, {"more": 1}),
]


@pytest.mark.parametrize("wrong", [w for w in WRONG if isinstance(w, dict)], ids=str)
def test_a_preprocessing_that_no_command_has_written(wrong):
    """It comes with a file, whoever made that, and decides how much memory a picture takes."""
    good = json.loads(json.dumps(asdict(Preprocessing())))
    assert preprocessing_from_json(good) == Preprocessing()
    assert recorded_preprocessing({"preprocessing": {**good, **wrong}}) is None
    with pytest.raises((TypeError, ValueError, AttributeError)):
        preprocessing_from_json({**good, **wrong})


def test_sizes_of_others_that_no_picture_has():
    timm = {"input_size": [3, 224, 224], "crop_pct": 0.9, "mean": [0.5] * 3, "std": [0.5] * 3}
    assert from_timm(timm).resize == 248
    for wrong in ({"input_size": [INFINITE]}, {"crop_pct": 5e-324}, {"crop_pct": 1e-9}):
        with pytest.raises(TaskError, match="does not tell the preprocessing"):
            from_timm({**timm, **wrong})
    for values in (
        {"size": {"shortest_edge": 2**60}, "do_center_crop": True, "crop_size": {"height": 9}},
        {"image_mean": [1] * 3, "image_std": [0] * 3},
    ):
        with pytest.raises(TaskError, match="that no picture has"):
            from_huggingface({}, values, Preprocessing())


@pytest.mark.parametrize("key", ["weights", "model", "arch", "patch_size", "heads"])
@pytest.mark.parametrize("value", [[], {"a": 1}, 0.5])
def test_a_network_that_an_index_does_not_tell(key, value):
    with pytest.raises(TaskError, match="name it with --model or --weights"):
        with_recorded_network(KnnConfig(), {"model": "dino_vits16", key: value}, set(), "it")


def test_checkpoints_that_people_have_named(tmp_path):
    for name in ("checkpoint.1-old.pt", "checkpoint.1.copy.pt", "checkpoint.².pt"):
        (tmp_path / name).write_bytes(b"mine")
    assert find_checkpoint(RunFolder(tmp_path), print) is None


def test_blocks_that_are_none(tmp_path):
    blocks = Blocks(tmp_path / "f.npy")
    blocks.start({"a": 1}, size=1, files=2)
    for name in ("².npz", "٣.npz", "1.npz", "-0000001.npz", "0000000x.npz"):
        (blocks.folder / name).write_bytes(b"")
    assert blocks.done() == []


def test_a_configuration_beside_weights_that_is_nested_without_end(tmp_path):
    (tmp_path / "config.json").write_text("[" * 200_000)
    assert training_beside(tmp_path / "w.pth") is None


def test_outputs_without_a_name_are_locked_too(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for output in (Path(), Path("."), Path("a/..")):
        with lock_output(output):
            assert (tmp_path.parent / f".{tmp_path.name}.lock").exists()
    with lock_output(Path("/")):
        pass
