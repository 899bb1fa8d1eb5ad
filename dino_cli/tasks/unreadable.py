"""What is said of files that cannot be read, alike in all commands."""

from collections.abc import Sequence

from dino_cli.errors import TaskError
from dino_cli.progress import Reporter

__all__ = ["cannot_read", "nothing_read", "tell_skipped"]


def cannot_read(path: str, reason: str, fix: str = "repair it or leave out --strict") -> TaskError:
    """The error for a file that ends the command."""
    return TaskError(f"cannot read {path!r}: {reason}", fix)


def nothing_read(skipped: Sequence[tuple[str, str]]) -> TaskError:
    """The error for no readable file at all, with the first reason. skipped: paths and reasons."""
    path, reason = skipped[0]
    many = "the file" if len(skipped) == 1 else f"none of the {len(skipped)} files"
    can = "cannot" if len(skipped) == 1 else "can"
    return TaskError(f"{many} {can} be read as a picture ({path!r}: {reason})", "check the files")


def tell_skipped(skipped: Sequence[tuple[str, str]], reporter: Reporter) -> None:
    """A remark with the first of the skipped files, where no list beside an output names them."""
    if skipped:
        path, reason = skipped[0]
        others = f", and {len(skipped) - 1} more" if len(skipped) > 1 else ""
        reporter.remark(f"skipped {path!r}: {reason}{others}")
