"""`dino train` in several processes: the same numbers, and what happens when one dies."""

import json
import os
import subprocess

import pytest
from processes import dino, finish, start
from small_run import losses
from typer.testing import CliRunner

from dino_cli.cli.app import app
from dino_cli.store.runs.log import Log

pytestmark = pytest.mark.slow


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
    config.write_text(
        config.read_text().replace("patch_size = 8\nwidth = 32\ndepth = 2\nheads = 2\n", "")
    )
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
    assert "the total batch stays 16: 8 images × 1 process × 2 accumulated" in said
    _, said = dino("train", "--resume", run, "--gpus", "4", "--max-steps", "12")
    assert "the total batch stays 16: 4 images × 4 processes × 1 accumulated" in said
    assert "batch norm" not in said
    assert list(losses(run).values()) == pytest.approx(list(losses(whole).values()), rel=1e-4)
    _, said = dino("train", "--resume", run, "--gpus", "3", code=1)
    assert "total batch of 16 does not divide" in said


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
