"""Signals that ask to stop: noted, held back, or ignored; and those of children."""

import multiprocessing
import signal
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

__all__ = [
    "StopOverdue",
    "check_stop",
    "forking",
    "ignore_signals",
    "starting_workers",
    "stop_requests",
]

STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
PATIENCE = 10.0  # seconds that whoever waits for data goes on with it once a stop was asked for
_due = float("inf")  # when waiting ends, of the innermost `stop_requests`


class StopOverdue(Exception):
    """A stop was asked for while data is waited for, which does not come."""


def check_stop() -> None:
    """For whoever waits without end: raises `StopOverdue` some seconds after a stop was asked."""
    if time.monotonic() > _due:
        raise StopOverdue


@contextmanager
def stop_requests() -> Iterator[list[int]]:
    """Collect SIGINT, SIGTERM and SIGUSR1 (SLURM's warning); a second SIGINT stops at once.

    Not within a second of the first: a launcher sends on the Ctrl-C that its processes also get.
    From the first on, `check_stop` gives its callers a few seconds.
    """
    global _due
    asked: list[int] = []
    first = float("inf")

    def note(number: int, _: FrameType | None) -> None:
        global _due
        nonlocal first
        if asked and number == signal.SIGINT and time.monotonic() - first > 1:
            raise KeyboardInterrupt
        first = min(first, time.monotonic())
        _due = first + PATIENCE
        asked.append(number)

    if threading.current_thread() is not threading.main_thread():
        yield asked
        return
    before = {number: signal.signal(number, note) for number in STOPPING}
    try:
        yield asked
    finally:
        _due = float("inf")
        for number, handler in before.items():
            signal.signal(number, handler)


def forking(workers: int) -> str | None:
    """How a loader with so many processes starts them; None: without any, or as the system can."""
    return "fork" if workers and "fork" in multiprocessing.get_all_start_methods() else None


@contextmanager
def starting_workers() -> Iterator[None]:
    """Around the start of processes that load: stop signals wait until the end of the block.

    They are forked, which takes milliseconds where spawned ones import torch for seconds, and touch
    neither CUDA nor torch's threads, of which Python warns.

    Python drops an exception that a handler raises while a process forks, so that Ctrl-C would be
    lost. And SIGCHLD stays as it was: torch's handler raises wherever the main thread happens to
    be when a worker dies; without it that is noticed at the next batch, within five seconds.
    """
    child = signal.getsignal(signal.SIGCHLD)
    try:
        with _held_back(), warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            yield
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGCHLD, child)


@contextmanager
def _held_back() -> Iterator[None]:
    """Signals that ask to stop come at the end of the block."""
    held: list[int] = []
    handlers: dict[int, Any] = {}
    if threading.current_thread() is threading.main_thread():
        # Blocked here, a signal goes to another thread, and its handler runs here nevertheless.
        handlers = {number: signal.getsignal(number) for number in STOPPING}
        for number in handlers:
            signal.signal(number, lambda number, _: held.append(number))
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOPPING)  # which forked processes inherit
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        for number in held:
            signal.raise_signal(number)


def ignore_signals() -> None:
    """For worker processes: a signal to the group is the parent's business, they end with it."""
    for number in STOPPING:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPPING)
