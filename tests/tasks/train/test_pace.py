"""What counts as time of training."""

import time

import pytest
import torch

from dino_cli.tasks.train.pace import Pace

LOSS = torch.zeros(())


def test_what_is_done_aside_is_no_training_and_waiting_is(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    pace = Pace(step=40)
    now += 8
    with pace.waiting():
        now += 2
    with pace.aside(LOSS):
        now += 30
    first = pace.lap(done=45)
    assert (first.steps, first.seconds, first.waited) == (5, 10, 2)
    with pace.aside(LOSS):
        now += 1
    now += 3
    second = pace.lap(done=46)
    assert (second.steps, second.seconds, second.waited) == (1, 3, 0)
