"""Runs that a signal or a kill interrupts, and that go on; each in a process of its own."""

import os
import signal
import subprocess
import sys
import time

import pytest
from in_process import dino
from small_run import losses

pytestmark = pytest.mark.slow


def run_process(*arguments, **options):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-m", "dino_cli", *map(str, arguments)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


def wait_for_step(run, step, process):
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and process.poll() is None:
        log = run / "log.jsonl"
        if log.exists() and len(log.read_text().splitlines()) > step:
            return
        time.sleep(0.02)
    raise AssertionError(process.communicate())


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1])
def test_signals_save_and_say_how_to_go_on(images, small, tmp_path, number):
    whole, run = tmp_path / "whole", tmp_path / "run"
    dino("train", images, "--config", small, "-o", whole, "--epochs", "60")
    process = run_process("train", images, "--config", small, "-o", run, "--epochs", "60")
    wait_for_step(run, 20, process)
    process.send_signal(number)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130
    assert f"dino train --resume {run}" in stderr
    assert "Traceback" not in stderr
    assert (run / "loss.png").exists()
    dino("train", "--resume", run)
    assert losses(run) == losses(whole)


def test_a_signal_to_the_whole_group_saves_too(images, small, tmp_path):
    """As torchrun, scancel and systemd send it: the processes that load images get it as well."""
    run = tmp_path / "run"
    process = run_process(
        "train", images, "--config", small, "-o", run, "--epochs", "200", "--workers", "2",
        start_new_session=True,
    )  # fmt: skip
    wait_for_step(run, 20, process)
    os.killpg(process.pid, signal.SIGTERM)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130, stderr
    assert f"dino train --resume {run}" in stderr
    assert "Traceback" not in stderr
    assert (run / "checkpoint.pt").exists()


def test_a_killed_run_resumes_to_the_same_floats(images, small, tmp_path):
    whole, run = tmp_path / "whole", tmp_path / "run"
    dino("train", images, "--config", small, "-o", whole, "--epochs", "40")
    process = run_process(
        "train", images, "--config", small, "-o", run, "--epochs", "40", "--save-every", "3"
    )
    for step in (15, 60, 100):
        wait_for_step(run, step, process)
        process.kill()
        process.communicate()
        process = run_process("train", "--resume", run)
    _, stderr = process.communicate(timeout=120)
    assert process.returncode == 0, stderr
    assert losses(run) == losses(whole)


KILLED = """
import os, signal, sys
from dino_cli.store.runs import checkpoints
from dino_cli.tasks.train import loop

write, at, accuracies = checkpoints.atomic_write, int(sys.argv.pop(1)), iter([30.0, 40.0])


def killed(path):
    global at
    at -= 1
    if at == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return write(path)


checkpoints.atomic_write = killed
loop.teacher_knn = lambda *_: next(accuracies)
from dino_cli.__main__ import main
main()
"""


@pytest.mark.parametrize("file", [4, 5, 6])  # of checkpoint, teacher and best one, saved twice
def test_a_run_killed_in_its_last_save_gets_what_is_missing(
    images, small, tmp_path, monkeypatch, file
):
    whole, run = tmp_path / "whole", tmp_path / "run"
    words = ["train", images, "--config", small, "--epochs", "2", "--eval-data", images]
    accuracies = iter([30.0, 40.0, 40.0])
    monkeypatch.setattr("dino_cli.tasks.train.loop.teacher_knn", lambda *_: next(accuracies))
    dino(*words, "-o", whole)
    killed = [sys.executable, "-c", KILLED, file, *words, "-o", run]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([str(word) for word in killed], env=environment, check=False)
    assert done.returncode == -signal.SIGKILL
    dino("train", "--resume", run)
    assert losses(run) == losses(whole)
    for name in ("teacher.safetensors", "teacher-best.safetensors"):
        assert (run / name).read_bytes() == (whole / name).read_bytes(), name
