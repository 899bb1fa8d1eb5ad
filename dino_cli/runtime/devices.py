"""Which device, with how many cores and threads, in which precision."""

import os
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Literal

import torch

from dino_cli.errors import UsageError

__all__ = [
    "DTYPES",
    "SMALL_NETWORK",
    "Precision",
    "autocast",
    "available_cores",
    "choose_device",
    "choose_precision",
    "cores_per_process",
    "one_thread",
    "usable_threads",
]

Precision = Literal["fp32", "bf16", "fp16"]
DTYPES: dict[Precision, torch.dtype] = {
    "fp32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
}
SMALL_NETWORK = 3_000_000  # weights; below, a second thread on a CPU costs more than it gives


def available_cores() -> int:
    """Cores that this process may use, which is fewer than the machine's under SLURM or taskset."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def usable_threads(wanted: int) -> int:
    """At least one thread or process, and at most one for each core."""
    return max(1, min(wanted, available_cores()))


def cores_per_process() -> int:
    """This process's share of them: torchrun starts several on a machine, for a GPU each."""
    return max(1, available_cores() // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


def choose_device(name: str) -> torch.device:
    """`auto` is the first of CUDA, MPS and CPU that is there; a GPU has its number.

    Raises `UsageError` for what is not there.
    """
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda", torch.cuda.current_device())
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UsageError(f"unknown device {name!r}", "use auto, cpu, cuda, cuda:N or mps") from None
    if device.type == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if count == 0:
            raise UsageError(
                f"device {name!r} asked for, but torch sees no CUDA device here",
                "use --device cpu, or install a CUDA build of torch and a driver",
            )
        if device.index is not None and device.index >= count:
            raise UsageError(
                f"device {name!r} asked for, but there are only {count} CUDA devices",
                f"use cuda:0 to cuda:{count - 1}",
            )
        if name == "cuda":
            return torch.device("cuda", torch.cuda.current_device())
    elif device.type == "mps" and not torch.backends.mps.is_available():
        raise UsageError(f"device {name!r} asked for, but there is none here", "use --device cpu")
    elif device.type not in ("cpu", "mps"):
        raise UsageError(f"unknown device {name!r}", "use auto, cpu, cuda, cuda:N or mps")
    return device


def choose_precision(name: str, device: torch.device) -> Precision:
    """`auto` is bf16 where the hardware multiplies it natively, else fp32.

    bf16 inputs with fp32 accumulation kept a cosine of more than 0.999 with fp32 features on every
    ViT tried; on CPUs without AVX512-BF16 or AMX bf16 is emulated, and slower.
    """
    precision = _chosen(name, device)
    if precision == "fp32" and device.type == "cuda":
        torch.backends.cudnn.allow_tf32 = False  # torch lets convolutions round to 10 bits else
        # Which its compiler before 2.14 advises for matrix products.
        warnings.filterwarnings("ignore", "TensorFloat32 tensor cores", UserWarning)
    return precision


def _chosen(name: str, device: torch.device) -> Precision:
    if name == "auto":
        if device.type == "cuda":
            # Not `is_bf16_supported()`, which counts emulation; Ampere (8.0) multiplies bf16.
            native = torch.version.hip or torch.cuda.get_device_capability(device)[0] >= 8
            return "bf16" if native else "fp32"
        return "bf16" if device.type == "cpu" and cpu_multiplies_bf16() else "fp32"
    if name == "fp16" and device.type == "cpu":
        raise UsageError("fp16 is emulated on a CPU and slow", "use --precision bf16 or fp32")
    if name not in DTYPES:
        raise UsageError(f"unknown precision {name!r}", "use auto, fp32, bf16 or fp16")
    return name


def cpu_multiplies_bf16() -> bool:
    """Whether this CPU has AVX512-BF16 or AMX-BF16 instructions."""
    if hasattr(torch.cpu, "get_capabilities"):
        known = torch.cpu.get_capabilities()
        return bool(known.get("avx512_bf16") or known.get("amx_bf16"))
    try:
        with open("/proc/cpuinfo") as lines:
            flags = next((line for line in lines if line.startswith("flags")), "").split()
    except OSError:
        return False
    return "avx512_bf16" in flags or "amx_bf16" in flags


def autocast(device: torch.device, precision: Precision) -> AbstractContextManager[object]:
    """Matrix products in the given precision; parameters, norms and softmax stay fp32."""
    if precision == "fp32":
        return nullcontext()
    return torch.autocast(device.type, DTYPES[precision])


@contextmanager
def one_thread() -> Iterator[None]:
    """Run torch in one thread.

    For networks so small a second thread gains little, and waits for the first by spinning: where
    another process wants the core, a step then takes ten times as long.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
