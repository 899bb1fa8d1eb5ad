"""One command at a time for one output."""

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from dino_cli.errors import TaskError
from dino_cli.store.writing.folders import hidden_folder

__all__ = ["lock_output"]

LONGEST = 255  # bytes of a name


@contextmanager
def lock_output(output: Path) -> Iterator[None]:
    """Hold `output` for this process. Raises `TaskError` when another one has it.

    By a hidden file beside it, `.<name>.lock`, gone at the end; what a killed process leaves of it
    holds nothing. The lock is POSIX's, which forked workers do not inherit. Where no such file can
    be made, nothing is held: the command itself will tell why.
    """
    whole = Path(os.path.abspath(output))  # of `-o .` too
    place = whole.with_name(f".{whole.name}.lock") if whole.name else whole  # held by nobody
    if len(os.fsencode(place.name)) > LONGEST:
        place = hidden_folder(whole, "lock")
    descriptor = _locked(place, output)
    try:
        yield
    finally:
        if descriptor is not None:
            with suppress(OSError):
                place.unlink(missing_ok=True)
            os.close(descriptor)


def _locked(place: Path, output: Path) -> int | None:
    while True:
        try:
            descriptor = os.open(place, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
        except OSError:
            return None
        try:
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(descriptor)
            if error.errno not in (errno.EACCES, errno.EAGAIN):
                with suppress(OSError):  # a file system without locks
                    place.unlink(missing_ok=True)
                return None
            raise TaskError(
                f"another dino is writing {str(output)!r}", "wait for it, or choose another -o"
            ) from None
        try:
            if os.path.samestat(os.fstat(descriptor), os.stat(place)):
                return descriptor
        except FileNotFoundError:
            pass
        os.close(descriptor)  # the one who had it has just removed it
