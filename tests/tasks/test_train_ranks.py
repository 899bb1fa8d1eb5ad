"""`dino train` in several processes: the same numbers, and what happens when one dies."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from small_run import losses, small_config
from typer.testing import CliRunner

from dino_cli.cli.app import app
from dino_cli.progress import Reporter
from dino_cli.store.runs.log import Log
from dino_cli.tasks.demo.draw import draw_folder

CONFIG = small_config(batch_size=16, epochs=6, watch=0, keep_every=0)
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--rdzv-backend", "c10d"]
TORCHRUN += ["--rdzv-endpoint", "localhost:0"]

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "drawn"
    draw_folder(folder, count=40, size=40, seed=0, style="final", reporter=Reporter(), masks=False)
    return folder / "images"  # two steps of 16 an epoch; eight images are left out


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "small.toml"
    path.write_text(CONFIG)
    return path


def start(*words, command=(sys.executable, "-m", "dino_cli"), stdin=None):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [*command, *map(str, words)],
        env=environment,
        stdin=stdin,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process, code=0):
    stdout, stderr = process.communicate(timeout=300)
    assert process.returncode == code, stderr
    assert "Traceback" not in stderr
    return stdout, stderr


def dino(*words, code=0):
    return finish(start(*words), code)


def wait_for_step(run, step, process):
    deadline = time.monotonic() + 200
    while time.monotonic() < deadline and process.poll() is None:
        if any(s >= step for s in losses(run)):
            return
        time.sleep(0.05)
    pytest.fail(f"step {step} was never logged: {process.communicate()}")


def children_of(process):
    """The processes of the run, by rank."""
    found = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(path.read_text().rsplit(") ", 1)[1].split()[1])
            environment = (path.parent / "environ").read_bytes().split(b"\0")
        except (OSError, ValueError, IndexError):
            continue
        rank = [v for v in environment if v.startswith(b"RANK=")]
        if parent == process.pid and rank:
            found[int(rank[0][5:])] = int(path.parent.name)
    return found


@pytest.mark.parametrize("flags", [(), ("--use-bn-in-head",)])
def test_one_two_and_four_processes_agree(images, config, tmp_path, flags):
    """1 × 16, 2 × 8 and 4 × 4 over a whole short run; batch norm is over all of them."""
    one = tmp_path / "one"
    dino("train", images, "--config", config, "-o", one, "--drop-path", "0", *flags)
    for count in (2, 4):
        run = tmp_path / str(count)
        dino(
            "train", images, "--config", config, "-o", run, "--drop-path", "0",
            "--gpus", count, "--batch-size", 16 // count, *flags,
        )  # fmt: skip
        assert list(losses(run).values()) == pytest.approx(list(losses(one).values()), rel=1e-4)
        assert len(losses(run)) == 12


def test_a_list_on_stdin_reaches_all_processes(images, config, tmp_path):
    """It can be read once, by one of them."""
    listed = tmp_path / "list.txt"
    listed.write_text("".join(f"{path}\n" for path in sorted(images.rglob("*.png"))))
    run, whole = tmp_path / "run", tmp_path / "whole"
    flags = ["--config", config, "--gpus", "2", "--batch-size", "8"]
    dino("train", listed, *flags, "-o", whole, "--max-steps", "4")
    with listed.open() as stdin:
        finish(start("train", "-", *flags, "-o", run, "--max-steps", "2", stdin=stdin))
    dino("train", "--resume", run, "--max-steps", "4")
    assert losses(run) == losses(whole)


def test_a_network_with_activations_in_its_norms_trains_alike(images, config, tmp_path):
    config.write_text(CONFIG.replace("patch_size = 8\nwidth = 32\ndepth = 2\nheads = 2\n", ""))
    one, two = tmp_path / "one", tmp_path / "two"
    words = ["train", images, "--config", config, "--arch", "regnety_002", "--epochs", "1"]
    dino(*words, "--drop-path", "0", "-o", one)
    dino(*words, "--drop-path", "0", "-o", two, "--gpus", "2", "--batch-size", "8")
    assert list(losses(two).values()) == pytest.approx(list(losses(one).values()), rel=1e-3)


def test_gradients_sent_as_bf16_are_close(images, config, tmp_path):
    runs = {}
    for name, flags in {"full": [], "half": ["--compress-gradients"]}.items():
        runs[name] = tmp_path / name
        dino(
            "train", images, "--config", config, "-o", runs[name], "--gpus", "2",
            "--batch-size", "8", *flags,
        )  # fmt: skip
    full, half = (list(losses(run).values()) for run in runs.values())
    assert half == pytest.approx(full, rel=1e-2)
    assert half != full


def test_another_number_of_processes_goes_on_with_the_same_total_batch(images, config, tmp_path):
    whole, run = tmp_path / "whole", tmp_path / "run"
    dino("train", images, "--config", config, "-o", whole, "--drop-path", "0.3")
    dino(
        "train", images, "--config", config, "-o", run, "--drop-path", "0.3",
        "--gpus", "2", "--batch-size", "8", "--max-steps", "5",
    )  # fmt: skip
    _, said = dino("train", "--resume", run, "--gpus", "1", "--max-steps", "9")
    assert "the total batch stays 16: 8 images × 1 processes × 2 accumulated" in said
    _, said = dino("train", "--resume", run, "--gpus", "4", "--max-steps", "12")
    assert "the total batch stays 16: 4 images × 4 processes × 1 accumulated" in said
    assert "batch norm" not in said
    assert list(losses(run).values()) == pytest.approx(list(losses(whole).values()), rel=1e-4)
    _, said = dino("train", "--resume", run, "--gpus", "3", code=1)
    assert "total batch of 16 does not divide" in said


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


def by_hand(*words, ranks=2, script=("-m", "dino_cli"), each=lambda rank: ()):
    """The processes of a run without a launcher, which would end the others when one ends."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = str(free.getsockname()[1])
    processes = []
    for rank in range(ranks):
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "MASTER_ADDR": "localhost"}
        environment |= {"MASTER_PORT": port, "WORLD_SIZE": str(ranks), "RANK": str(rank)}
        processes.append(
            subprocess.Popen(
                [sys.executable, *script, *map(str, words), *map(str, each(rank))],
                env=environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
    return processes


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


def test_impossible_numbers_of_processes_are_refused(images, config):
    for flags, said in {
        ("--gpus", "0"): "neither all nor a number",
        ("--gpus", "7", "--device", "auto"): "but there are",
        ("--gpus", "2", "--device", "cuda:0"): "does not go with",
    }.items():
        result = CliRunner().invoke(app, ["train", str(images), "--config", str(config), *flags])
        assert result.exit_code == 2
        assert said in result.stderr


SRUN = 'printf "%s\\n" "$@" "time to save: $TORCH_ELASTIC_SHUTDOWN_TIMEOUT"'


def test_the_job_script_is_a_shell_script_that_starts_or_resumes(images, config, tmp_path):
    run = tmp_path / "a run"
    result = CliRunner().invoke(
        app,
        ["train", str(images), "--config", str(config), "-o", str(run), "--print-sbatch"],
    )
    assert result.exit_code == 0, result.output
    script = tmp_path / "job.sh"
    script.write_text(result.stdout)
    fakes = tmp_path / "bin"
    fakes.mkdir()
    for name, body in {"srun": SRUN, "scontrol": "echo node1"}.items():
        (fakes / name).write_text(f"#!/bin/sh\n{body}\n")
        (fakes / name).chmod(0o755)
    environment = {**os.environ, "PATH": f"{fakes}:{os.environ['PATH']}"}
    environment |= {"SLURM_JOB_NODELIST": "n", "SLURM_JOB_NUM_NODES": "2", "SLURM_JOB_ID": "7"}

    def words():
        done = subprocess.run(
            ["bash", script], env=environment, capture_output=True, text=True, check=True
        )
        return done.stdout.splitlines()

    first = words()
    assert first[0] == "torchrun"
    assert first[first.index("--rdzv-endpoint") + 1] == "node1:29500"
    assert first[first.index("--nproc-per-node") + 1] == "8"
    assert "time to save: 240" in first
    command = first[first.index("dino_cli") + 1 :]
    assert command[0] == "train"
    assert str(run) in command
    assert "--print-sbatch" not in command
    run.mkdir()
    (run / "config.json").write_text(json.dumps({}))
    again = words()
    assert again[again.index("dino_cli") + 1 : -1] == ["train", "--resume", str(run)]


def test_knn_on_the_first_process_changes_no_number(images, config, tmp_path):
    """The others wait for it; buffers of batch norm and random numbers are left as they were."""
    runs = {name: tmp_path / name for name in ("without", "with")}
    words = ["--gpus", "2", "--batch-size", "8", "--conv-stem", "--use-bn-in-head"]
    for name, flags in {"without": [], "with": ["--eval-data", images, "--eval-every", 2]}.items():
        dino("train", images, "--config", config, "-o", runs[name], *words, *flags)
    assert losses(runs["with"]) == losses(runs["without"])
    epochs = [e for e in Log.read(runs["with"] / "log.jsonl") if "epoch_loss" in e]
    assert ["knn_top1" in e for e in epochs] == [False, True, False, True, False, True]
    teachers = [(run / "teacher.safetensors").read_bytes() for run in runs.values()]
    assert teachers[0] == teachers[1]


def test_what_only_the_first_process_finds_wrong_ends_all_in_one_sentence(images, config, tmp_path):
    flags = ["--gpus", "2", "--batch-size", "8", "--eval-data", images / "fish"]
    words = ["train", images, "--config", config, "-o", tmp_path / "run", *flags]
    _, stderr = dino(*words, code=2)  # well before the 30 minutes of --timeout
    assert stderr.count("has no two class folders") == 1
    assert not (tmp_path / "run").exists()
