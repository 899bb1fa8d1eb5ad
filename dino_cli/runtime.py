"""Device, precision, ranks and signals: what the machine offers and how we use it."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from types import FrameType
from typing import Literal

import torch

from dino_cli.errors import UsageError

__all__ = [
    "Precision",
    "Ranks",
    "autocast",
    "available_cores",
    "choose_device",
    "choose_precision",
    "ignore_signals",
    "one_thread",
    "rank_device",
    "ranks_from_environment",
    "signals_held",
    "stop_requests",
]

Precision = Literal["fp32", "bf16", "fp16"]
STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)


def available_cores() -> int:
    """Cores that this process may use, which is fewer than the machine's under SLURM or taskset."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def choose_device(name: str) -> torch.device:
    """`auto` is the first of CUDA, MPS and CPU that is there; raises `UsageError` otherwise."""
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
    if name == "auto":
        if device.type == "cuda":
            # Not `is_bf16_supported()`, which counts emulation; Ampere (8.0) multiplies bf16.
            native = torch.version.hip or torch.cuda.get_device_capability(device)[0] >= 8
            return "bf16" if native else "fp32"
        return "bf16" if device.type == "cpu" and cpu_multiplies_bf16() else "fp32"
    if name == "fp16" and device.type == "cpu":
        raise UsageError("fp16 is emulated on a CPU and slow", "use --precision bf16 or fp32")
    if name not in ("fp32", "bf16", "fp16"):
        raise UsageError(f"unknown precision {name!r}", "use auto, fp32, bf16 or fp16")
    return name  # type: ignore[return-value]


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
    dtype = torch.bfloat16 if precision == "bf16" else torch.float16
    return torch.autocast(device.type, dtype)


@dataclass(frozen=True, kw_only=True)
class Ranks:
    """This process among those that train together (launched by torchrun or SLURM through it)."""

    rank: int = 0
    count: int = 1
    local_rank: int = 0

    def average(self, tensor: torch.Tensor) -> torch.Tensor:
        """Mean of a tensor over all ranks; one collective."""
        if self.count > 1:
            torch.distributed.all_reduce(tensor)
            tensor = tensor / self.count
        return tensor

    def any(self, flag: bool, device: torch.device) -> bool:
        """Whether any rank says so; a collective, so all ranks must ask."""
        if self.count == 1:
            return flag
        said = torch.tensor(float(flag), device=device)
        torch.distributed.all_reduce(said, torch.distributed.ReduceOp.MAX)
        return bool(said.item())

    def barrier(self) -> None:
        if self.count > 1:
            torch.distributed.barrier()


@contextmanager
def ranks_from_environment(device: torch.device) -> Iterator[Ranks]:
    """The process group that torchrun's variables describe; a single process without them."""
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if count == 1 or "RANK" not in os.environ:
        yield Ranks()
        return
    ranks = Ranks(
        rank=int(os.environ["RANK"]),
        count=count,
        local_rank=int(os.environ.get("LOCAL_RANK", os.environ["RANK"])),
    )
    if device.type == "cuda":
        torch.cuda.set_device(device)
        torch.distributed.init_process_group("nccl", device_id=device)
    else:
        torch.distributed.init_process_group("gloo")
    try:
        yield ranks
    finally:
        torch.distributed.destroy_process_group()


def rank_device(name: str) -> torch.device:
    """The device of this rank: under torchrun `auto` and `cuda` mean the local rank's GPU."""
    local = os.environ.get("LOCAL_RANK")
    if name.startswith("cuda:") and int(os.environ.get("LOCAL_WORLD_SIZE", "1")) > 1:
        raise UsageError(
            f"--device {name} would put all processes on one GPU", "use --device cuda or auto"
        )
    if local is not None and name in ("auto", "cuda") and torch.cuda.is_available():
        return choose_device(f"cuda:{local}")
    return choose_device(name)


@contextmanager
def stop_requests() -> Iterator[list[int]]:
    """Collect SIGINT, SIGTERM and SIGUSR1 (SLURM's warning); a second SIGINT stops at once."""
    asked: list[int] = []

    def note(number: int, _: FrameType | None) -> None:
        if asked and number == signal.SIGINT:
            raise KeyboardInterrupt
        asked.append(number)

    if threading.current_thread() is not threading.main_thread():
        yield asked
        return
    before = {number: signal.signal(number, note) for number in STOPPING}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


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


@contextmanager
def signals_held() -> Iterator[None]:
    """Stop signals wait until the end of the block.

    Python drops an exception that a handler raises while a process forks, so that Ctrl-C would be
    lost while workers start.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOPPING)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def ignore_signals() -> None:
    """For worker processes: a signal to the group is the parent's business, they end with it."""
    for number in STOPPING:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPPING)
