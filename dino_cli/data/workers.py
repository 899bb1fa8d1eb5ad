"""Processes that load pictures while the caller computes."""

from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from dino_cli.data.decoding.pixel_limit import given_limit, set_limit
from dino_cli.runtime import available_cores, forking, ignore_signals, starting_workers

__all__ = ["load", "workers_for"]

FEW_BATCHES = 2  # up to this many, starting processes costs more than it saves


def workers_for(batches: int, wanted: int) -> int:
    """How many processes so many batches are worth: at most one per core, none for a handful."""
    return min(wanted, available_cores(), batches) if batches > FEW_BATCHES else 0


def load(data: Dataset[Any], *, workers: int, **options: Any) -> Iterator[Any]:
    """What torch's `DataLoader` makes of `data` with these options; its processes are started."""
    loader: DataLoader[Any] = DataLoader(
        data,
        num_workers=workers,
        worker_init_fn=partial(_start, given_limit()),
        multiprocessing_context=forking(workers),
        **options,
    )
    with starting_workers():
        return iter(loader)


def _start(most_pixels: int | None, _: int) -> None:
    set_limit(most_pixels)
    ignore_signals()
    torch.set_num_threads(1)
