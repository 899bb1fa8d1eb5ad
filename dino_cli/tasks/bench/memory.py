"""How much memory a work needs at most."""

import os
from collections.abc import Callable
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from dino_cli.tasks.bench.measure import finish

__all__ = ["peak_memory"]


def peak_memory(work: Callable[[], object], device: torch.device) -> int:
    """Bytes that torch has at most beyond what lay there before, temporaries of kernels included.

    Of the device's memory on CUDA, else of the CPU's, where the profiler notes each allocation; a
    work must not free there what it has not allocated.
    """
    if device.type == "cuda":
        finish(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        work()
        finish(device)
        return torch.cuda.max_memory_allocated(device) - before
    # The profiler speaks of itself, and of missing GPUs, on stderr else.
    os.environ.setdefault("KINETO_LOG_LEVEL", "6")
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as measured:
        kept = work()  # what it returns is part of it
    del kept
    inner: Any = measured.profiler
    notes = [e for e in inner.kineto_results.events() if e.name() == "[memory]"]
    most = now = 0
    for note in sorted(notes, key=lambda e: int(e.start_ns())):
        now += note.nbytes()
        most = max(most, now)
    return most
