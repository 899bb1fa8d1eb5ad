"""Numbers that no command can work with, each refused in one sentence."""

from typing import Literal, get_args, get_origin, get_type_hints

from dino_cli.errors import UsageError

__all__ = ["check_batches", "check_choices", "check_fps", "check_positive", "check_threshold"]


def check_positive(flag: str, value: float, usual: object) -> None:
    """Raises `UsageError` unless the option's value is at least 1."""
    if value < 1:
        raise UsageError(f"{flag} {value} is not a positive number", f"use {flag} {usual}")


def check_batches(batch_size: int, workers: int, *, usual: int = 8) -> None:
    """Raises `UsageError` for what is no size of batches or number of processes."""
    if batch_size < 1:
        raise UsageError(
            f"batch size {batch_size} is not a positive number", f"use --batch-size {usual}"
        )
    if workers < 0:
        raise UsageError(f"{workers} workers is a negative number", "use --workers 0 for none")


def check_choices(config: object) -> None:
    """Raises `UsageError` for a value that is none of an option's choices.

    For calls from Python: on the command line nothing else can be given.
    """
    for name, hint in get_type_hints(type(config)).items():
        value, choices = getattr(config, name), get_args(hint)
        if get_origin(hint) is Literal and value not in choices:
            raise UsageError(f"{name}={value!r} is none of the choices", f"use one of {choices}")


def check_threshold(share: float) -> None:
    """Raises `UsageError` for what is no share of the attention."""
    if not 0 < share <= 1:
        raise UsageError(f"threshold {share:g} is not in (0, 1]", "the paper uses --threshold 0.6")


def check_fps(fps: float | None) -> None:
    """Raises `UsageError` for what is no number of frames per second."""
    if fps is not None and not 0 < fps <= 1000:
        raise UsageError(f"{fps:g} frames per second is not in (0, 1000]", "use --fps 25")
