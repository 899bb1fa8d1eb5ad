"""Schedules, one float64 value per step or epoch (reference: `cosine_scheduler`)."""

import numpy as np
from numpy.typing import NDArray

__all__ = ["cosine_schedule", "teacher_temperatures"]


def cosine_schedule(
    base: float, final: float, steps: int, *, warmup_steps: int = 0
) -> NDArray[np.float64]:
    """Linear warm-up from 0 to `base` with its end, then a half cosine down (or up) to `final`.

    Value i of the n cosine steps is f + ½ (b - f)(1 + cos(π i / n)), so `final` itself is never
    quite reached. Returns (steps,). Raises `ValueError` when the warm-up is longer than the run.
    """
    if warmup_steps > steps:
        raise ValueError(f"{warmup_steps} warm-up steps do not fit into a run of {steps}")
    n = steps - warmup_steps
    cosine = final + 0.5 * (base - final) * (1 + np.cos(np.pi * np.arange(n) / max(n, 1)))
    return np.concatenate([np.linspace(0.0, base, warmup_steps), cosine])


def teacher_temperatures(
    start: float, final: float, epochs: int, *, warmup_epochs: int = 0
) -> NDArray[np.float64]:
    """The teacher's temperature per epoch: linear from `start` to `final` with its end, then flat.

    Returns (epochs,). Raises `ValueError` when the warm-up is longer than the run.
    """
    if warmup_epochs > epochs:
        raise ValueError(f"{warmup_epochs} warm-up epochs do not fit into a run of {epochs}")
    warmup = np.linspace(start, final, warmup_epochs)
    return np.concatenate([warmup, np.full(epochs - warmup_epochs, final)])
