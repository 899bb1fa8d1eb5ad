"""One line of a training log."""

import math
import resource
import sys
from typing import Any

import torch
from torch import Tensor

from dino_cli.core.training.health import Health
from dino_cli.core.training.step import StepResult, StepValues

__all__ = ["finite", "log_entry"]


def log_entry(
    step: int,
    epoch: int,
    result: StepResult,
    at: StepValues,
    *,
    out_dim: int,
    rate: float,
    wait: float,
    device: torch.device,
) -> dict[str, Any]:
    """What log.jsonl keeps of a step; None for figures that are not finite. Waits for the device.

    rate: images per second since the last line; wait: the share of that time spent waiting for
    data. Entropies are in nats; see `core.training.health` for what is measured.
    """
    health = result.health
    assert isinstance(health, Health)
    entropy = finite(health.entropy)
    return {
        "step": step,
        "epoch": epoch,
        "loss": finite(result.loss),
        **({} if result.koleo is None else {"koleo": finite(result.koleo)}),
        "lr": at.lr,
        "weight_decay": at.weight_decay,
        "momentum": at.momentum,
        "teacher_temperature": at.teacher_temperature,
        "teacher_entropy": entropy,
        "entropy_share": None if entropy is None else entropy / math.log(out_dim),
        "target_spread": finite(health.spread),
        "target_kl": finite(health.target_kl),
        "prototypes": finite(health.prototypes),
        "centre_norm": finite(health.centre_norm),
        "feature_std": finite(health.feature_std),
        "feature_rank": finite(health.feature_rank),
        "gradient_norm": finite(result.gradient_norm),
        "update_ratio": finite(result.update_ratio),
        "images_per_second": round(rate, 2),
        "data_wait": round(wait, 4),
        "memory_gib": round(memory_gib(device), 3),
    }


def memory_gib(device: torch.device) -> float:
    """Most memory used so far: of the GPU by tensors, else of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30


def finite(value: Tensor | None) -> float | None:
    """For JSON, which knows no NaN."""
    number = math.nan if value is None else float(value.item())
    return number if math.isfinite(number) else None
