"""One line of a training log."""

import math
from typing import Any

from torch import Tensor

from dino_cli.core.step import StepResult, StepValues

__all__ = ["log_entry"]


def log_entry(
    step: int, epoch: int, result: StepResult, at: StepValues, rate: float, wait: float
) -> dict[str, Any]:
    """What log.jsonl keeps of a step; None for figures that are not finite. Waits for the device.

    rate: images per second since the last line; wait: the share of that time spent waiting for
    data.
    """
    return {
        "step": step,
        "epoch": epoch,
        "loss": _finite(result.loss),
        "lr": at.lr,
        "weight_decay": at.weight_decay,
        "momentum": at.momentum,
        "teacher_temperature": at.teacher_temperature,
        "teacher_entropy": _finite(result.entropy),
        "target_spread": _finite(result.spread),
        "gradient_norm": _finite(result.gradient_norm),
        "images_per_second": round(rate, 2),
        "data_wait": round(wait, 4),
    }


def _finite(value: Tensor) -> float | None:
    """For JSON, which knows no NaN."""
    number = float(value.item())
    return number if math.isfinite(number) else None
