"""What the long turns of the scripts beside this file found, small enough to try each time."""

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from dino_cli.cli.app import app
from dino_cli.config.values import as_type
from dino_cli.errors import TaskError, UsageError
from dino_cli.store.embeddings.reading import read_embeddings
from dino_cli.store.embeddings.sources import read_sources, sources_path
from dino_cli.store.runs.curves import draw_loss
from dino_cli.store.runs.log import Log
from dino_cli.store.runs.watched import read_attention
from dino_cli.store.weights.load import load
from dino_cli.tasks.report import charts_of

STEP = {"step": 3, "epoch": 0, "loss": 2.5, "lr": 0.1}


def test_a_number_too_large_for_a_float():
    with pytest.raises(UsageError, match="cannot be"):
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
