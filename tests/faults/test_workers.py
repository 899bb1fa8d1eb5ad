"""A process that reads pictures dies, as under the kernel's out-of-memory killer."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from small_vit import photo, write_small_vit


def children(parent: int) -> list[int]:
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            if int(path.read_text().rsplit(") ", 1)[1].split()[1]) == parent:
                found.append(int(path.parent.name))
        except (OSError, IndexError):
            continue
    return found


@pytest.mark.slow
@pytest.mark.parametrize("command", ["embed", "train"])
def test_a_worker_that_is_killed_is_told_in_one_sentence(tmp_path, command):
    for i in range(3000 if command == "embed" else 40):
        path = tmp_path / "photos" / f"{i}.png"
        if i < 40:
            photo(path, size=(64, 48), seed=i)
        else:
            path.hardlink_to(tmp_path / "photos" / f"{i % 40}.png")
    weights = write_small_vit(tmp_path / "w.safetensors")
    words = {
        "embed": ["--weights", weights, "-o", tmp_path / "f.npy", "--batch-size", 1],
        "train": [
            "--arch", "vit_tiny", "--patch-size", 8, "--width", 32, "--depth", 1, "--heads", 2,
            "--out-dim", 64, "--head-hidden", 32, "--head-bottleneck", 16, "--batch-size", 8,
            "--global-size", 32, "--local-size", 16, "--epochs", 500, "-o", tmp_path / "run",
            "--warmup-epochs", 1, "--watch", 0,
        ],
    }  # fmt: skip
    line = [command, tmp_path / "photos", *words[command], "--workers", 2, "--device", "cpu"]
    process = subprocess.Popen(
        [sys.executable, "-m", "dino_cli", *map(str, line)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    deadline = time.monotonic() + 100

    def begun() -> bool:
        if command == "embed":
            return any((tmp_path / "f.npy.part").glob("[0-9]*.npz"))
        return (tmp_path / "run" / "checkpoint.pt").exists()

    while time.monotonic() < deadline and process.poll() is None and not begun():
        time.sleep(0.02)
    workers = children(process.pid)
    assert workers, process.communicate()
    os.kill(workers[-1], signal.SIGKILL)
    _, stderr = process.communicate(timeout=120)
    assert "Traceback" not in stderr, stderr
    assert process.returncode == 1, stderr
    assert stderr.count("dino: error: ") == 1, stderr
    assert not (tmp_path / "f.npy").exists()
