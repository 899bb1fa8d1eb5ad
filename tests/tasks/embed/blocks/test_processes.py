"""Processes that are killed, and several that make one file."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from feature_files import export_files
from typer.testing import CliRunner

from dino_cli.cli.app import app

KILLS = 4


@pytest.mark.slow
def test_kills_at_any_instant(photos: Path, tmp_path: Path, tiny_weights: Path) -> None:
    for i in range(40):
        shutil.copytree(photos / "red", photos / f"more{i}")
    command = [
        sys.executable, "-m", "dino_cli", "embed", str(photos), "--weights", str(tiny_weights),
        "--device", "cpu", "--batch-size", "2", "--workers", "1", "--quiet",
    ]  # fmt: skip
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run([*command, "-o", tmp_path / "whole.npy"], check=True, env=environment)
    part = tmp_path / "f.npy.part"
    draw = random.Random(0)
    for _ in range(KILLS):
        before = {p.name: p.stat().st_mtime_ns for p in part.glob("0*.npz")}
        process = subprocess.Popen(
            [*command, "-o", tmp_path / "f.npy", "--resume"], env=environment
        )
        deadline = time.monotonic() + 60
        while len(list(part.glob("0*.npz"))) <= len(before) and process.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        time.sleep(draw.uniform(0, 0.4))
        process.send_signal(signal.SIGKILL)
        process.wait()
        if (tmp_path / "f.npy").exists():  # it comes last: all is there, and blocks may go
            assert export_files(tmp_path, "f.") == export_files(tmp_path, "whole.")
            break
        after = {p.name: p.stat().st_mtime_ns for p in part.glob("0*.npz")}
        assert before.items() <= after.items()  # what was done is not done again
    subprocess.run([*command, "-o", tmp_path / "f.npy", "--resume"], check=True, env=environment)
    assert export_files(tmp_path, "f.") == export_files(tmp_path, "whole.")
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []


@pytest.mark.slow
@pytest.mark.parametrize("processes", [2, 3])
def test_several_processes_make_the_same_files(
    photos: Path, tmp_path: Path, tiny_weights: Path, processes: int
) -> None:
    (photos / "blue/1.png").write_bytes(b"")
    options = [
        "embed", str(photos), "--weights", str(tiny_weights), "--device", "cpu", "--batch-size",
        "1", "--workers", "0", "--features", "cls,patch",
    ]  # fmt: skip
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    result = CliRunner().invoke(app, [*options, "-o", str(tmp_path / "one.npy")])
    assert result.exit_code == 0, result.output
    launch = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node",
        str(processes), "-m", "dino_cli", *options, "-o", str(tmp_path / "many.npy"),
    ]  # fmt: skip
    done = subprocess.run(launch, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("many.npy: 11 x 64") == 1
    assert export_files(tmp_path, "many") == export_files(tmp_path, "one")
