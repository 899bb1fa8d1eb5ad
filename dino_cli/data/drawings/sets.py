"""Many drawings at once, in memory, drawn by several processes."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import get_context

import numpy as np
from numpy.typing import NDArray

from dino_cli.data.drawings.images import draw
from dino_cli.data.drawings.textures import Backgrounds
from dino_cli.errors import TaskError

__all__ = ["DrawingSet", "Series", "draw_sets"]

CHUNK = 25  # drawings per message between processes: a fifth of a second of work


@dataclass(frozen=True, kw_only=True)
class Series:
    """The first `count` drawings that `seed` names, of `size` pixels; see `draw`."""

    seed: int
    count: int
    size: int
    backgrounds: Backgrounds = "seen"


@dataclass(frozen=True, kw_only=True)
class DrawingSet:
    """images: uint8 RGB (N, S, S, 3); masks: bool (N, S, S); labels: int64 (N,), see `CLASSES`."""

    images: NDArray[np.uint8]
    masks: NDArray[np.bool_]
    labels: NDArray[np.int64]


def draw_sets(
    series: Sequence[Series], *, processes: int = 1, advance: Callable[[int], None] = lambda _: None
) -> list[DrawingSet]:
    """Draw every series; the result does not depend on `processes`.

    advance: told how many drawings came since the last call. Raises `TaskError` when a process
    dies.
    """
    jobs = [
        (one, first, min(first + CHUNK, one.count))
        for one in series
        for first in range(0, one.count, CHUNK)
    ]
    parts: list[list[DrawingSet]] = [[] for _ in series]
    numbers = [i for i, one in enumerate(series) for _ in range(0, one.count, CHUNK)]
    for number, part in zip(numbers, _drawn(jobs, processes), strict=True):
        parts[number].append(part)
        advance(len(part.labels))
    return [_joined(part) for part in parts]


Job = tuple[Series, int, int]


def _drawn(jobs: Sequence[Job], processes: int) -> Iterator[DrawingSet]:
    if processes <= 1 or len(jobs) == 1:
        yield from map(_draw, jobs)
        return
    # Fresh processes (not forked): a fork would copy the threads' locks of torch.
    pool = ProcessPoolExecutor(processes, mp_context=get_context("spawn"))
    try:
        yield from pool.map(_draw, jobs)
    except BrokenProcessPool:
        raise TaskError(
            "a process that draws died (killed, or out of memory)", "try again with --workers 1"
        ) from None
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _draw(job: Job) -> DrawingSet:
    series, first, last = job
    drawings = [
        draw(series.seed, i, series.size, backgrounds=series.backgrounds)
        for i in range(first, last)
    ]
    return DrawingSet(
        images=np.stack([one.image for one in drawings]),
        masks=np.stack([one.mask for one in drawings]),
        labels=np.array([one.label for one in drawings], np.int64),
    )


def _joined(parts: Sequence[DrawingSet]) -> DrawingSet:
    return DrawingSet(
        images=np.concatenate([part.images for part in parts]),
        masks=np.concatenate([part.masks for part in parts]),
        labels=np.concatenate([part.labels for part in parts]),
    )
