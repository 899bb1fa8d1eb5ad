"""How many pixels a picture may have: Pillow's guard against files that unpack to fill the memory.

There is one limit in a process; those that load pictures take over their parent's.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from math import inf
from typing import Concatenate, ParamSpec, TypeVar

from PIL import Image

from dino_cli.config.shared import PixelOptions
from dino_cli.errors import UsageError

__all__ = [
    "given_limit",
    "most_pixels",
    "pixel_limit",
    "refuse_too_large",
    "set_limit",
    "too_large",
    "within_pixel_limit",
]

_given: int | None = None  # by --max-pixels; else Pillow's limit holds

C = TypeVar("C", bound=PixelOptions)
P = ParamSpec("P")
R = TypeVar("R")


def within_pixel_limit(task: Callable[Concatenate[C, P], R]) -> Callable[Concatenate[C, P], R]:
    """A task that reads pictures up to the limit of its config, its first argument."""

    @wraps(task)
    def limited(config: C, /, *args: P.args, **kwargs: P.kwargs) -> R:
        with pixel_limit(config.max_pixels):
            return task(config, *args, **kwargs)

    return limited


@contextmanager
def pixel_limit(most: int | None) -> Iterator[None]:
    """Pictures of more pixels are unreadable inside; None: the limit stays as it is.

    Raises `UsageError` for an impossible one.
    """
    if most is not None and most < 1:
        raise UsageError(f"--max-pixels {most} is not a positive number", "leave it out, or more")
    before = _given, Image.MAX_IMAGE_PIXELS
    if most is not None:
        set_limit(most)
    try:
        yield
    finally:
        set_limit(before[0])
        Image.MAX_IMAGE_PIXELS = before[1]


def given_limit() -> int | None:
    """What `--max-pixels` says; None without it."""
    return _given


def set_limit(most: int | None) -> None:
    """Set what `given_limit` returns, for the whole process.

    Pillow's own limit is never lowered: it holds for the crops of a picture too.
    """
    global _given
    _given = most
    if most is not None and Image.MAX_IMAGE_PIXELS is not None:
        Image.MAX_IMAGE_PIXELS = max(most, Image.MAX_IMAGE_PIXELS)


def most_pixels() -> float:
    """How many pixels a picture may have."""
    return _given or Image.MAX_IMAGE_PIXELS or inf


def refuse_too_large(image: Image.Image) -> None:
    """Raises Pillow's error for a picture above the limit, which is open and not yet decoded."""
    if image.width * image.height > most_pixels():
        raise Image.DecompressionBombError


def too_large() -> str:
    """Why a picture above the limit is not read."""
    return (
        f"more than {most_pixels()} pixels, the limit against malicious files;"
        " raise it with --max-pixels"
    )
