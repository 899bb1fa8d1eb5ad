"""What a machine denies a command is one sentence; a fault of ours keeps its traceback."""

import os
import shlex
import subprocess
import sys

import pytest
import torch
from small_run import small_config
from small_vit import photo, write_small_vit
from typer.testing import CliRunner

from dino_cli.cli.app import app


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with photos and weights; the commands run inside it."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    for i in range(6):
        photo(tmp_path / "photos" / f"{i}.png", (48, 40), seed=i)
    write_small_vit(tmp_path / "good.safetensors")
    return tmp_path


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        torch.distributed.DistBackendError("NCCL error\nFailed to CUDA calloc async 608 bytes"),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"),
        RuntimeError("Storage size calculation overflowed with sizes=[4611686018427387904, 1]"),
    ],
)
def test_memory_that_does_not_suffice_is_told_in_one_sentence(place, monkeypatch, error):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr("dino_cli.tasks.embed.run.embed", fail)
    result = CliRunner().invoke(app, ["embed", "photos", "--weights", "good.safetensors"])
    assert result.exit_code == 1
    assert result.stderr.startswith("dino: error: the memory is used up")
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("error", "said"),
    [
        ("can't start new thread", "the system gives no more threads; "),
        (
            "CUDA error: no kernel image is available for execution on the device\nCUDA kernel "
            "errors might be asynchronously reported",
            "this torch has no kernels for this GPU; ",
        ),
        (
            "CUDA error: CUDA-capable device(s) is/are busy or unavailable",
            "another program has the GPU for itself alone; ",
        ),
    ],
)
def test_what_the_system_or_the_gpu_does_not_give_is_told(place, monkeypatch, error, said):
    def fail(*_, **__):
        raise RuntimeError(error)

    monkeypatch.setattr("dino_cli.tasks.embed.run.embed", fail)
    shown = CliRunner().invoke(app, ["embed", "photos", "--weights", "good.safetensors"]).stderr
    assert shown.startswith(f"dino: error: {said}")
    assert shown.count("\n") == 1


def test_a_gpu_without_triton_is_told(place, monkeypatch):
    from torch._inductor.exc import TritonMissing  # seconds

    def fail(*_, **__):
        raise TritonMissing(None)

    monkeypatch.setattr("dino_cli.tasks.embed.run.embed", fail)
    said = CliRunner().invoke(app, ["embed", "photos", "--weights", "good.safetensors"]).stderr
    assert said.startswith("dino: error: torch.compile failed (Cannot find a working triton")
    assert said.endswith("or leave out --compile\n")


def test_other_faults_of_ours_keep_their_traceback(place, monkeypatch):
    def fail(*_, **__):
        raise RuntimeError("a fault of ours")

    monkeypatch.setattr("dino_cli.tasks.embed.run.embed", fail)
    result = CliRunner().invoke(app, ["embed", "photos", "--weights", "good.safetensors"])
    assert isinstance(result.exception, RuntimeError)


@pytest.mark.slow
@pytest.mark.parametrize("command", ["train", "embed"])
def test_a_machine_without_a_compiler_is_a_sentence(command, place):
    (place / "small.toml").write_text(small_config(batch_size=4))
    words = {
        "train": ["--config", "small.toml", "-o", "run"],
        "embed": ["--weights", "good.safetensors", "-o", "feats.npy"],
    }[command]
    environment = {
        **os.environ,
        "CXX": str(place / "no-compiler"),
        "TORCHINDUCTOR_CACHE_DIR": str(place / "cache"),
    }
    result = subprocess.run(
        [sys.executable, "-m", "dino_cli", command, "photos", *words, "--compile"],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 1
    last = result.stderr.splitlines()[-1]
    assert last.startswith("dino: error: torch.compile failed")
    assert last.endswith("install g++, or leave out --compile")
    assert "Traceback" not in result.stderr


def test_a_closed_pipe_and_help_are_quiet():
    command = f"{sys.executable} -m dino_cli --help | head -1"
    done = subprocess.run(command, shell=True, capture_output=True, text=True)
    assert done.stderr == ""


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_streams_are_no_fault(closed: str) -> None:
    words = f"{shlex.quote(sys.executable)} -m dino_cli help {closed}"
    done = subprocess.run(words, shell=True, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert ("masks" in done.stdout) == (closed == "2>&-")
