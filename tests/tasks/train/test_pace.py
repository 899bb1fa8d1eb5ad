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


def test_the_devices_work_on_the_last_step_is_training(monkeypatch: pytest.MonkeyPatch) -> None:
    """Which goes on while the host is done with it, until the loss is there."""
    now = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now)

    class Awaited(torch.Tensor):
        def item(self) -> float:
            nonlocal now
            now += 4
            return 0.0

    pace = Pace(step=0)
    with pace.aside(LOSS.as_subclass(Awaited)):
        now += 30
    assert pace.lap(done=1).seconds == 4
