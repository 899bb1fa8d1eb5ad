"""Processes that load pictures while the caller computes."""

import atexit
import os
import threading
import weakref
from collections.abc import Iterable, Iterator
from functools import partial
from multiprocessing.process import BaseProcess
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from dino_cli.data.decoding.pixel_limit import given_limit, set_limit
from dino_cli.runtime import (
    available_cores,
    check_stop,
    forking,
    ignore_signals,
    starting_workers,
)

__all__ = ["Loading", "load", "workers_for"]

FEW_BATCHES = 2  # up to this many, starting processes costs more than it saves
GLANCE = 2  # seconds without a batch after which is asked whether it is still wanted
PATIENCE = 2.0  # seconds that processes get to end once nothing more is wanted of them


def workers_for(batches: int, wanted: int) -> int:
    """How many processes so many batches are worth: at most one per core, none for a handful."""
    return min(wanted, available_cores(), batches) if batches > FEW_BATCHES else 0


class Loading(Iterator[Any]):
    """Batches as torch's `DataLoader` makes them; its processes end with this, within seconds.

    torch's own end waits ten seconds for each process that is stuck (a picture on a disk that does
    not answer), and Python's for ever, since SIGTERM is their parent's business.
    """

    def __init__(self, batches: Iterator[Any]) -> None:
        self._batches: Any = batches
        self._process = os.getpid()
        self.workers: list[BaseProcess] = list(getattr(batches, "_workers", ()))
        if self.workers:
            _open.add(self)

    def __next__(self) -> Any:
        """The next batch. Raises `StopOverdue` when none comes after a stop was asked for."""
        while True:
            try:
                return next(self._batches)
            except RuntimeError as error:
                if "DataLoader timed out" not in str(error):
                    raise
            check_stop()
            pinning = getattr(self._batches, "_pin_memory_thread", None)
            if pinning is not None and not pinning.is_alive():
                raise RuntimeError("DataLoader worker: the thread that pins memory has ended")

    def close(self) -> None:
        """End the processes."""
        if os.getpid() != self._process:  # a copy, in a process that was forked since
            return
        batches, self._batches = self._batches, iter(())
        if not any(worker.is_alive() for worker in self.workers):
            return
        later = threading.Timer(PATIENCE, _kill, [self.workers])
        later.daemon = True
        later.start()
        end = getattr(batches, "_shutdown_workers", None)
        if end is not None:
            end()
        later.cancel()
        self.kill()

    def kill(self) -> None:
        """End the processes at once."""
        if os.getpid() == self._process:
            _kill(self.workers)
            self.workers = []

    def __del__(self) -> None:
        self.close()


_open: "weakref.WeakSet[Loading]" = weakref.WeakSet()


def load(data: Dataset[Any], *, workers: int, **options: Any) -> Loading:
    """What torch's `DataLoader` makes of `data` with these options; its processes are started."""
    loader: DataLoader[Any] = DataLoader(
        data,
        num_workers=workers,
        worker_init_fn=partial(_start, given_limit()),
        multiprocessing_context=forking(workers),
        timeout=GLANCE if workers else 0,
        **options,
    )
    with starting_workers():
        loading = Loading(iter(loader))
    # Anew each time, so that it comes before what torch has registered, which would wait.
    atexit.unregister(_kill_all)
    atexit.register(_kill_all)
    return loading


def _kill_all() -> None:
    """Whoever still loads when the program ends."""
    for loading in list(_open):
        loading.kill()


def _kill(workers: Iterable[BaseProcess]) -> None:
    for worker in workers:
        if worker.is_alive():
            worker.kill()


def _start(most_pixels: int | None, _: int) -> None:
    set_limit(most_pixels)
    ignore_signals()
    torch.set_num_threads(1)
