"""`dino train` and `dino embed` on two GPUs: NCCL's rules, and torch's `SyncBatchNorm`."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from in_process import dino as here
from processes import TORCHRUN, dino, finish, start
from small_run import losses

from dino_cli.store.runs.log import Log

pytestmark = pytest.mark.gpu


@pytest.fixture(autouse=True)
def two(monkeypatch):
    if os.environ.get("DINO_SIMULATED_CUDA"):
        monkeypatch.setenv("DINO_SIMULATED_CUDA", "2")
        monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[3]))
    elif torch.cuda.device_count() < 2:
        pytest.skip("needs two GPUs")


@pytest.mark.parametrize(
    ("flags", "tolerance"),
    [
        (["--views", "cpu", "--use-bn-in-head"], 1e-3),
        (["--views", "gpu", "--compress-gradients", "--center-init", "batch"], 0.02),
        (["--views", "cpu", "--cuda-graph", "--conv-stem"], 1e-3),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_two_gpus_agree_with_one_process_on_the_cpu(images, config, tmp_path, flags, tolerance):
    words = ["train", images, "--config", config, "--drop-path", "0", *flags]
    cpu, gpus = tmp_path / "cpu", tmp_path / "gpus"
    here(*words, "-o", cpu, "--views", "cpu")
    dino(*words, "-o", gpus, "--device", "cuda", "--batch-size", "8")
    assert all(e["memory_gib"] > 0 for e in Log.read(gpus / "log.jsonl") if "step" in e)
    assert len(losses(gpus)) == 12
    assert list(losses(gpus).values()) == pytest.approx(list(losses(cpu).values()), rel=tolerance)


def test_a_run_goes_on_with_fewer(images, config, tmp_path):
    """With all that a run may do on the way."""
    flags = ["--device", "cuda", "--views", "cpu", "--eval-data", images]
    whole, run = tmp_path / "whole", tmp_path / "run"
    here("train", images, "--config", config, *flags, "-o", whole, "--gpus", "1")
    dino("train", images, "--config", config, *flags, "-o", run, "--batch-size", "8",
         "--max-steps", "5")  # fmt: skip
    _, said = dino("train", "--resume", run, "--gpus", "1", "--max-steps", "12")
    assert "the total batch stays 16: 8 images × 1 process × 2 accumulated" in said
    assert list(losses(run).values()) == pytest.approx(list(losses(whole).values()), rel=1e-3)
    assert any("knn_top1" in entry for entry in Log.read(run / "log.jsonl"))


def test_the_second_of_two_gpus_trains_alone(images, config, tmp_path):
    """Streams and graphs are of torch's current device, which would be the first."""
    words = ["train", images, "--config", config, "--views", "cpu", "--max-steps", "4"]
    here(*words, "-o", tmp_path / "cpu")
    dino(*words, "-o", tmp_path / "gpu", "--device", "cuda:1", "--cuda-graph")
    assert list(losses(tmp_path / "gpu").values()) == pytest.approx(
        list(losses(tmp_path / "cpu").values()), rel=1e-3
    )


def test_two_gpus_embed_what_one_does(images, tmp_path):
    words = ["embed", images, "--model", "dino_demo", "--precision", "fp32"]
    here(*words, "--device", "cpu", "-o", tmp_path / "cpu.npy")
    finish(start("--nproc-per-node", "2", "-m", "dino_cli", *words, "--device", "cuda",
                 "-o", tmp_path / "gpus.npy", command=TORCHRUN))  # fmt: skip
    one, two = np.load(tmp_path / "cpu.npy"), np.load(tmp_path / "gpus.npy")
    np.testing.assert_allclose(two, one, rtol=1e-3, atol=1e-3)
    assert (tmp_path / "gpus.csv").read_text() == (tmp_path / "cpu.csv").read_text()
