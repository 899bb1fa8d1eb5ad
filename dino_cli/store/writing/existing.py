"""What stands where an output shall go, and is not overwritten."""

from collections.abc import Sequence
from pathlib import Path

from dino_cli.errors import TaskError

__all__ = ["already_exists"]


def already_exists(
    present: Sequence[Path], fix: str = "use --overwrite or another -o"
) -> TaskError:
    """The error of every command for outputs that are there, of which it names the first."""
    more = f" (and {len(present) - 1} more)" if len(present) > 1 else ""
    return TaskError(f"{str(present[0])!r}{more} already exists", fix)
