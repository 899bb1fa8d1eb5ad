"""What a device can do at best, measured: matrix products and memory."""

import time
from collections.abc import Callable

import torch

from dino_cli.runtime import DTYPES, Precision
from dino_cli.tasks.bench.measure import finish

__all__ = ["matrix_peak", "memory_bandwidth"]

TRIES = 5


def matrix_peak(device: torch.device, precision: Precision) -> float:
    """Operations per second of a large square product, the best of five tries."""
    dtype = DTYPES[precision]
    n = 1536 if device.type == "cpu" else 8192
    a = torch.randn(n, n, device=device).to(dtype)
    b = torch.randn(n, n, device=device).to(dtype)
    return 2 * n**3 / _best(lambda: torch.mm(a, b), device)


def memory_bandwidth(device: torch.device) -> float:
    """Bytes per second of a copy, read and written, the best of five tries."""
    size = 2**27 if device.type == "cpu" else 2**30
    a = torch.ones(size // 4, device=device)
    b = torch.empty_like(a)
    return 2 * size / _best(lambda: b.copy_(a), device)


def _best(work: Callable[[], object], device: torch.device) -> float:
    seconds = []
    for _ in range(TRIES + 1):
        finish(device)
        started = time.perf_counter()
        work()
        finish(device)
        seconds.append(time.perf_counter() - started)
    return min(seconds[1:])
