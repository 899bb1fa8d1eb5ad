"""A line of the log: each figure under its own name, and no number where there is none."""

import math
from dataclasses import fields

import pytest
import torch

from dino_cli.core.training.health import Health
from dino_cli.core.training.step import StepResult, StepValues
from dino_cli.tasks.train.entry import log_entry

AT = StepValues(
    lr=1.5, weight_decay=2.5, momentum=3.5, teacher_temperature=4.5, freeze_last_layer=False
)


def entry(health, **result):
    numbers = {"loss": 1.0, "gradient_norm": 2.0, "skipped": 0.0, "overflowed": 0.0, **result}
    tensors = {name: torch.tensor(value) for name, value in numbers.items()}
    return log_entry(
        6, 3, StepResult(**tensors, health=health), AT,
        out_dim=1024, rate=7.125, wait=0.123456, device=torch.device("cpu"),
    )  # fmt: skip


def test_each_figure_stands_under_its_name():
    names = [field.name for field in fields(Health)]
    health = Health(**{name: torch.tensor(10.0 + i) for i, name in enumerate(names)})
    told = entry(health, koleo=8.0, update_ratio=9.0)
    assert told.pop("memory_gib") > 0.05  # of a process with torch
    assert told == {
        "step": 6, "epoch": 3, "loss": 1.0, "koleo": 8.0, "lr": 1.5, "weight_decay": 2.5,
        "momentum": 3.5, "teacher_temperature": 4.5, "teacher_entropy": 10.0,
        "entropy_share": pytest.approx(10 / math.log(1024)), "target_spread": 11.0,
        "prototypes": 12.0, "target_kl": 13.0, "feature_std": 14.0, "feature_rank": 15.0,
        "centre_norm": 16.0, "gradient_norm": 2.0, "update_ratio": 9.0,
        "images_per_second": 7.12, "data_wait": 0.1235,
    }  # fmt: skip


def test_figures_that_are_not_finite_are_none():
    names = [field.name for field in fields(Health)]
    told = entry(Health(**{name: torch.tensor(float("nan")) for name in names}), loss=math.inf)
    empty = {name for name, value in told.items() if value is None}
    assert empty == {
        "loss", "teacher_entropy", "entropy_share", "target_spread", "prototypes", "target_kl",
        "feature_std", "feature_rank", "centre_norm", "update_ratio",
    }  # fmt: skip
    assert "koleo" not in told
