"""Many drawings at once, in memory, drawn by several processes."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dino_cli.data.drawings.images import draw
from dino_cli.data.drawings.processes import side_by_side
from dino_cli.data.drawings.textures import Backgrounds

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
    for number, part in zip(numbers, side_by_side(_draw, jobs, processes), strict=True):
        parts[number].append(part)
        advance(len(part.labels))
    return [_joined(part) for part in parts]


Job = tuple[Series, int, int]


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
