"""Where outputs shall go: what stands in the way before work starts, what is refused meanwhile."""

import os
import shlex
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from dino_cli.errors import TaskError

__all__ = [
    "ELSEWHERE",
    "already_exists",
    "cannot_write",
    "check_files",
    "check_folder",
    "check_free",
    "check_parent",
    "explain_errors",
    "is_read",
    "keep_inputs",
]

ELSEWHERE = "make room, or choose another -o"


def check_files(targets: Sequence[Path], *, overwrite: bool) -> None:
    """Raises `TaskError` when files of one folder cannot be put there; touches nothing."""
    check_parent(targets[0])
    for target in targets:
        if target.is_dir():
            raise TaskError(f"{str(target)!r} is a folder", "name a file")
        if target.exists() and not overwrite:
            raise already_exists([target])


def check_free(output: Path, names: Sequence[str], *, overwrite: bool) -> None:
    """Raises `TaskError` when `output` cannot hold these files and folders; touches nothing."""
    check_folder(output)
    present = [output / name for name in names if (output / name).exists()]
    if present and not overwrite:
        raise already_exists(present)


def check_folder(output: Path) -> None:
    """Raises `TaskError` when nothing can be put into this folder, which need not be there yet."""
    check_parent(output)
    if output.exists() and not output.is_dir():
        raise TaskError(f"{str(output)!r} is a file", "name a folder with -o")
    if not os.access(output if output.exists() else output.parent, os.W_OK):
        raise TaskError(f"no permission to write to {str(output)!r}", "choose another -o")


def check_parent(output: Path) -> None:
    """Raises `TaskError` when the folder that an output shall lie in is not there."""
    parent = output.parent
    if not parent.is_dir():
        fix = f"mkdir -p {shlex.quote(str(parent))}"
        raise TaskError(f"the folder {str(parent)!r} does not exist", fix)


def keep_inputs(targets: Sequence[Path], read: Iterable[Path]) -> None:
    """Raises `TaskError` where an output would replace a file that is read, by whatever name.

    Files with the suffix of no output are not looked at: there may be millions of them.
    """
    present = {_identity(target) for target in targets if target.exists()}
    suffixes = {target.suffix for target in targets}
    for path in read if present else ():
        if path.suffix in suffixes and path.exists() and _identity(path) in present:
            raise is_read(path)


def is_read(path: Path) -> TaskError:
    """The error of every command for an output that would replace what the command reads."""
    return TaskError(f"{str(path)!r} is read, and would be replaced", "choose another -o")


def _identity(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_dev, status.st_ino


def already_exists(
    present: Sequence[Path], fix: str = "use --overwrite or another -o"
) -> TaskError:
    """The error of every command for outputs that are there, of which it names the first."""
    more = f" (and {len(present) - 1} more)" if len(present) > 1 else ""
    return TaskError(f"{str(present[0])!r}{more} already exists", fix)


def cannot_write(path: Path, error: OSError, fix: str = ELSEWHERE) -> TaskError:
    """The error of every command for what the file system refuses while it writes `path`."""
    return TaskError(f"cannot write {str(path)!r}: {error.strerror or error}", fix)


@contextmanager
def explain_errors(path: Path, fix: str = ELSEWHERE) -> Iterator[None]:
    """Turn what the file system refuses while `path` is written into a `TaskError`."""
    try:
        yield
    except OSError as error:
        raise cannot_write(path, error, fix) from None
