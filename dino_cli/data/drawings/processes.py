"""Drawings are arithmetic: several processes make them side by side."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from typing import TypeVar

from dino_cli.errors import TaskError

__all__ = ["side_by_side"]

Job = TypeVar("Job")
Drawn = TypeVar("Drawn")


def side_by_side(
    draw: Callable[[Job], Drawn], jobs: Sequence[Job], processes: int, *, chunk: int = 1
) -> Iterator[Drawn]:
    """What `draw` makes of each job, in their order; `chunk` jobs at a time go to a process.

    One process, or few jobs, are done here. Raises `TaskError` when a process dies.
    """
    if processes <= 1 or len(jobs) <= chunk:
        yield from map(draw, jobs)
        return
    # Fresh processes (not forked): a fork would copy the threads' locks of torch.
    pool = ProcessPoolExecutor(processes, mp_context=get_context("spawn"))
    try:
        yield from pool.map(draw, jobs, chunksize=chunk)
    except BrokenProcessPool:
        raise TaskError(
            "a process that draws died (killed, or out of memory)", "try again with --workers 1"
        ) from None
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
