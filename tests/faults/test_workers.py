"""A process that reads pictures dies, as under the kernel's out-of-memory killer, or is stuck, as
on a disk that does not answer."""

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
from small_run import losses, small_config
from small_vit import photo, write_small_vit
from torch.utils.data import Dataset

from dino_cli import __main__ as program
from dino_cli.data import workers
from dino_cli.data.workers import load
from dino_cli.runtime import StopOverdue, check_stop, signals, stop_requests


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


class Stuck(Dataset):
    """Its last item never comes."""

    def __len__(self):
        return 4

    def __getitem__(self, index):
        if index == 3:
            time.sleep(1000)
        return torch.tensor(index)


def test_a_loader_ends_though_a_process_of_it_is_stuck():
    loading = load(Stuck(), workers=2, batch_size=1)
    assert [int(next(loading)) for _ in range(3)] == [0, 1, 2]
    processes = loading.workers
    began = time.monotonic()
    loading.close()
    assert time.monotonic() - began < workers.PATIENCE + 3
    assert not any(process.is_alive() for process in processes)
    assert next(loading, None) is None


def test_nobody_waits_for_a_stuck_process_once_a_stop_was_asked(monkeypatch):
    monkeypatch.setattr(workers, "GLANCE", 0.2)
    monkeypatch.setattr(workers, "PATIENCE", 0.2)
    monkeypatch.setattr(signals, "PATIENCE", 0.3)
    with stop_requests() as asked:
        loading = load(Stuck(), workers=1, batch_size=1)
        for _ in range(3):
            next(loading)
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(StopOverdue):
            next(loading)
        assert asked == [signal.SIGTERM]
    check_stop()  # is of that block alone
    loading.close()


def test_the_end_waits_for_no_process_that_cannot_die(monkeypatch):
    """In the kernel, say: neither a signal nor the end of the program reaches it."""

    class Undead:
        def kill(self):
            pass

        def join(self, seconds):
            assert seconds <= program.PATIENCE

        def is_alive(self):
            return True

    class Left(Exception):
        pass

    def leave(code):
        raise Left(code)

    monkeypatch.setattr(multiprocessing, "active_children", lambda: [Undead()])
    monkeypatch.setattr(os, "_exit", leave)
    for code, told in ((0, 0), (130, 130), ("words", 1)):
        with pytest.raises(Left) as left:
            program._end_workers(code)
        assert left.value.args == (told,)
    assert threading.current_thread() is threading.main_thread()


# Before `dino`: a picture of this name never opens, in the processes that load.
NEVER = """
import os, sys, time
from PIL import Image
parent, before = os.getpid(), Image.open
def opened(path, *more, **options):
    if os.getpid() != parent and "stuck" in str(path):
        open("reached", "w").close()
        time.sleep(1000)
    return before(path, *more, **options)
Image.open = opened
"""


def _stuck(folder: Path, code: str, *words: object) -> subprocess.Popen:
    """A program once a process of it is stuck."""
    process = subprocess.Popen(
        [sys.executable, "-c", NEVER + code, *map(str, words)], cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        # Of a shell's background job it would be ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip
    deadline = time.monotonic() + 100
    while time.monotonic() < deadline and process.poll() is None:
        if (folder / "reached").exists():
            time.sleep(1)  # for what has been read before it
            return process
        time.sleep(0.05)
    pytest.fail(str(process.communicate()))


MAIN = "from dino_cli.__main__ import main; main()"


@pytest.mark.slow
@pytest.mark.alone
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("command", ["embed", "train"])
def test_a_stop_is_heard_though_a_process_is_stuck(tmp_path, command, number):
    for i in range(31):
        photo(tmp_path / "photos" / f"{i:02}.png", size=(64, 48), seed=i)
    photo(tmp_path / "photos" / "stuck.png", size=(64, 48))
    write_small_vit(tmp_path / "w.safetensors")
    (tmp_path / "small.toml").write_text(small_config())
    words = {
        "embed": ["--weights", "w.safetensors", "-o", "f.npy", "--batch-size", 1],
        "train": ["--config", "small.toml", "-o", "run", "--epochs", 500, "--seed", 3],
    }
    line = [command, "photos", *words[command], "--workers", 2, "--device", "cpu"]
    process = _stuck(tmp_path, MAIN, *line)
    began = time.monotonic()
    process.send_signal(number)
    _, stderr = process.communicate(timeout=60)
    assert time.monotonic() - began < signals.PATIENCE + 15
    assert process.returncode == 130, stderr
    assert "Traceback" not in stderr
    assert stderr.count("--resume") == 1
    if command == "train":
        done = losses(tmp_path / "run")
        assert (tmp_path / "run" / "checkpoint.pt").exists() == bool(done)
        assert f"stopped after step {len(done)} of" in stderr


@pytest.mark.slow
@pytest.mark.alone
def test_a_program_that_uses_the_package_ends_though_a_process_is_stuck(tmp_path):
    """Without `main`: SIGTERM, by which Python ends its processes, is not heard by those."""
    (tmp_path / "photos").mkdir()
    for i in range(8):
        photo(tmp_path / "photos" / f"{i}.png")
    photo(tmp_path / "photos" / "stuck.png")
    code = """
from dino_cli.config.shared import Preprocessing
from dino_cli.data.listing.images import find_images
from dino_cli.data.loader import image_batches
batches = image_batches(find_images(["photos"]), Preprocessing(), batch_size=1, workers=2)
for _ in range(8):
    next(batches)
while not os.path.exists("reached"):
    time.sleep(0.1)
raise SystemExit(7)
"""
    process = _stuck(tmp_path, code)
    began = time.monotonic()
    _, stderr = process.communicate(timeout=60)
    assert time.monotonic() - began < 20
    assert process.returncode == 7, stderr
    assert not stderr
