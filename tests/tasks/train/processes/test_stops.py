"""When one of several processes of `dino train` dies, fails or is stopped: what the others do."""

import os
import shutil
import signal
import time

import pytest
import torch
from processes import TORCHRUN, by_hand, children_of, dino, finish, start, wait_for_step
from small_run import losses

pytestmark = pytest.mark.slow


@pytest.mark.alone
def test_a_process_that_dies_is_named_and_the_run_goes_on(images, config, tmp_path):
    whole, run = tmp_path / "whole", tmp_path / "run"
    flags = ["--config", config, "--epochs", "100", "--gpus", "2", "--batch-size", "8"]
    dino("train", images, *flags, "-o", whole)
    process = start("train", images, *flags, "-o", run, "--save-every", "3")
    wait_for_step(run, 20, process)
    began = time.monotonic()
    os.kill(children_of(process)[1], signal.SIGKILL)
    _, stderr = finish(process, 1)
    assert time.monotonic() - began < 60
    assert "process 1 of 2 was killed by SIGKILL" in stderr
    assert f"dino train --resume {run}" in stderr
    dino("train", "--resume", run)
    assert losses(run) == pytest.approx(losses(whole), rel=1e-6)
    assert len(losses(run)) == 200


def test_an_error_in_one_process_is_told_once_and_ends_the_others(images, config, tmp_path):
    _, stderr = dino(
        "train", images, "--config", config, "-o", tmp_path / "run", "--gpus", "2",
        "--batch-size", "64", code=1,
    )  # fmt: skip
    assert stderr.count("are fewer than one total batch of 128") >= 1
    assert "process 1 of 2" not in stderr
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("other", ["fewer", "renamed"])
def test_processes_that_see_other_images_do_not_train_together(images, config, tmp_path, other):
    here, there = tmp_path / "here", tmp_path / "there"
    shutil.copytree(images, here)
    shutil.copytree(images, there)
    one = sorted(there.rglob("*.png"))[0]
    one.unlink() if other == "fewer" else one.rename(one.with_name("other.png"))
    processes = by_hand(
        "train", "--config", config, "-o", tmp_path / "run", "--batch-size", "8",
        each=lambda rank: [[here, there][rank]],
    )  # fmt: skip
    for process in processes:
        _, said = finish(process, 1)
        found = "39 images, process 0 40" if other == "fewer" else "other names"
        assert f"do not see the same data: process 1 finds {found}" in " ".join(said.split())
    assert not (tmp_path / "run").exists()


SLOW_SAVE = """
import time
from dino_cli.store.runs import checkpoints

save = checkpoints.save_state


def slow(*given):
    time.sleep(3)
    save(*given)


checkpoints.save_state = slow
from dino_cli.__main__ import main
main()
"""


def test_nobody_leaves_before_the_checkpoint_of_a_stop_is_written(images, config, tmp_path):
    """Whoever starts processes kills the others soon after one has ended."""
    run = tmp_path / "run"
    first, second = by_hand(
        "train", images, "--config", config, "-o", run, "--batch-size", "8", "--epochs", "5000",
        "--max-steps", "5000", script=("-c", SLOW_SAVE),
    )  # fmt: skip
    wait_for_step(run, 1, first)
    second.send_signal(signal.SIGTERM)
    finish(second, 130)
    saved = torch.load(run / "checkpoint.pt", weights_only=True)["step"]
    finish(first, 130)
    assert saved == max(losses(run)) + 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1])
def test_signals_reach_all_processes_and_save(images, config, tmp_path, number):
    run = tmp_path / "run"
    process = start(
        "train", images, "--config", config, "-o", run, "--gpus", "2", "--batch-size", "8",
        "--epochs", "5000",
    )  # fmt: skip
    wait_for_step(run, 5, process)
    process.send_signal(number)
    _, stderr = finish(process, 130)
    assert stderr.count(f"go on with: dino train --resume {run}") == 1
    done = max(losses(run))
    dino("train", "--resume", run, "--max-steps", done + 3)
    assert len(losses(run)) == done + 3


def test_torchrun_restarts_from_the_last_checkpoint(images, config, tmp_path):
    """`torchrun --max-restarts` runs the very same command again."""
    whole, run = tmp_path / "whole", tmp_path / "run"
    flags = ["--config", config, "--epochs", "100", "--batch-size", "8", "--save-every", "3"]
    dino("train", images, *flags, "-o", whole, "--gpus", "2")
    process = start(
        "--nproc-per-node", "2", "--max-restarts", "1", "-m", "dino_cli", "train", images, *flags,
        "-o", run, command=TORCHRUN,
    )  # fmt: skip
    wait_for_step(run, 20, process)
    os.kill(children_of(process)[1], signal.SIGKILL)
    finish(process)
    assert losses(run) == pytest.approx(losses(whole), rel=1e-6)
    assert len(losses(run)) == 200


def test_what_only_the_first_process_finds_wrong_ends_all_in_one_sentence(images, config, tmp_path):
    flags = ["--gpus", "2", "--batch-size", "8", "--eval-data", images / "fish"]
    words = ["train", images, "--config", config, "-o", tmp_path / "run", *flags]
    _, stderr = dino(*words, code=2)  # well before the 30 minutes of --timeout
    assert stderr.count("has no two class folders") == 1
    assert not (tmp_path / "run").exists()
