"""How long training takes between two lines of the log, without what is done beside it."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from torch import Tensor

__all__ = ["Pace", "Stretch"]


@dataclass(frozen=True, kw_only=True)
class Stretch:
    """Some steps on end. seconds: of training; waited: those of them spent waiting for images."""

    steps: int
    seconds: float
    waited: float


class Pace:
    """A stopwatch that stands still while the run does something else. step: the first to come."""

    def __init__(self, step: int) -> None:
        self._step, self._began = step, time.monotonic()
        self._waited = self._aside = 0.0

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """What is done inside is waiting for images."""
        began = time.monotonic()
        yield
        self._waited += time.monotonic() - began

    @contextmanager
    def aside(self, loss: Tensor) -> Iterator[None]:
        """What is done inside is no training: k-NN, pictures, logging, saving.

        loss: of the last step, waited for first, since the device's work up to it is training.
        """
        loss.item()
        began = time.monotonic()
        yield
        self._aside += time.monotonic() - began

    def lap(self, done: int) -> Stretch:
        """The stretch since the last call, of a run that has `done` steps behind it."""
        now = time.monotonic()
        stretch = Stretch(
            steps=done - self._step,
            seconds=now - self._began - self._aside,
            waited=self._waited,
        )
        self._step, self._began = done, now
        self._waited = self._aside = 0.0
        return stretch
