"""`dino demo --images`: drawn images with exact masks, for trying every other command."""

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image

from dino_cli.data.drawings.images import CLASSES, draw
from dino_cli.data.drawings.processes import side_by_side
from dino_cli.errors import UsageError
from dino_cli.progress import Reporter
from dino_cli.runtime import usable_threads
from dino_cli.store.writing.atomic import hidden_beside
from dino_cli.store.writing.targets import already_exists, cannot_write, check_folder

__all__ = ["draw_folder"]

Style = Literal["final", "early", "mixed"]
MIN_SIZE, MAX_SIZE = 16, 4096
MOST = 1_000_000  # drawings; names have six digits


def draw_folder(
    folder: Path,
    *,
    count: int,
    size: int,
    seed: int,
    style: Style,
    reporter: Reporter,
    workers: int = 8,
    masks: bool = True,
) -> None:
    """Write `count` drawings as folder/images/<class>/*.png and folder/masks/<class>/*.png.

    `mixed`: the first half early, the second half final drawings. Drawing i depends on (seed, i)
    alone, whatever the `workers`, of which there is at most one per core. Raises `UsageError` for
    an existing folder or impossible sizes, `TaskError` when a process that draws dies.
    """
    if count < 1:
        raise UsageError(f"--count {count} must be at least 1", "ask for --count 200")
    if count > MOST:
        raise UsageError(f"--count {count} is more than {MOST}", "ask for --count 200")
    if size < MIN_SIZE:
        raise UsageError(f"--size {size} is too small to draw", f"use at least {MIN_SIZE}")
    if size > MAX_SIZE:
        raise UsageError(f"--size {size} is too large to draw", f"use at most {MAX_SIZE}")
    if seed < 0:
        raise UsageError(f"--seed {seed} must not be negative", "use --seed 0")
    with _new_folder(folder) as fresh:
        kinds = ("images", "masks") if masks else ("images",)
        for kind in kinds:
            for name in CLASSES:
                (fresh / kind / name).mkdir(parents=True)
        one = partial(_draw_one, str(fresh), size, seed, masks)
        jobs = [(i, _style_of(i, count, style)) for i in range(count)]
        reporter.stage("drawing", count)
        # To start a process takes as long as some hundred drawings.
        processes = min(usable_threads(workers), 1 + count // 200)
        for _ in side_by_side(one, jobs, processes, chunk=32):
            reporter.advance()
        reporter.finish()


def _style_of(index: int, count: int, style: Style) -> Literal["early", "final"]:
    if style == "mixed":
        return "early" if index < count // 2 else "final"
    return style


def _draw_one(
    folder: str, size: int, seed: int, masks: bool, job: tuple[int, Literal["early", "final"]]
) -> None:
    index, style = job
    drawing = draw(seed, index, size, style=style)
    name = f"{CLASSES[drawing.label]}/{index:06}.png"
    Image.fromarray(drawing.image).save(os.path.join(folder, "images", name), compress_level=1)
    if masks:
        mask = drawing.mask.astype(np.uint8) * 255
        Image.fromarray(mask).save(os.path.join(folder, "masks", name), compress_level=1)


@contextmanager
def _new_folder(folder: Path) -> Iterator[Path]:
    """A temporary folder that takes its name at the end, and is removed after an error."""
    if folder.exists():
        raise already_exists([folder], "choose a new folder")
    check_folder(folder)
    with ExitStack() as stack:
        try:
            fresh = stack.enter_context(hidden_beside(folder, folder=True))
        except OSError as error:
            raise cannot_write(folder, error) from None
        yield fresh
        fresh.chmod(0o755)
        fresh.rename(folder)
