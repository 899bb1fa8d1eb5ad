"""Runs a piece of work in a forked process that is killed, or refused something, on its way."""

import contextlib
import os
import resource
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

__all__ = ["count_changes", "forked", "killed_at", "limited_to", "refused_at"]

WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
CHANGES = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link", "os.truncate", "os.chmod"}


def _on_changes(place: Path, react: Callable[[int, str], None]) -> None:
    """Call `react` with a running number before each change of a file or folder below `place`.

    Stays until the process ends: only for a forked one.
    """
    top, count = str(place), 0

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal count
        if event == "open":
            flags = arguments[2]
            if not (isinstance(flags, int) and flags & WRITING):
                return
        elif event not in CHANGES:
            return
        named = [os.fsdecode(a) for a in arguments if isinstance(a, str | bytes | os.PathLike)]
        if not any(name.startswith(top) for name in named):
            return
        count += 1
        react(count, event)

    sys.addaudithook(hook)


@contextmanager
def killed_at(place: Path, number: int) -> Iterator[None]:
    """SIGKILL just before the change of that number, from 1."""

    def react(count: int, _: str) -> None:
        if count == number:
            os.kill(os.getpid(), signal.SIGKILL)

    _on_changes(place, react)
    yield


@contextmanager
def refused_at(place: Path, number: int, code: int) -> Iterator[None]:
    """The change of that number, from 1, fails with an errno, as do all after it but removals."""

    def react(count: int, event: str) -> None:
        if count == number:
            raise OSError(code, os.strerror(code))

    _on_changes(place, react)
    yield


@contextmanager
def count_changes(place: Path, told: Path) -> Iterator[None]:
    """Write how many changes there were to the file `told`."""
    seen = [0]

    def react(count: int, _: str) -> None:
        seen[0] = count

    _on_changes(place, react)
    try:
        yield
    finally:
        told.write_text(str(seen[0]))


@contextmanager
def limited_to(size: int) -> Iterator[None]:
    """No file can grow beyond `size` bytes, as on a full disk (EFBIG; Python ignores SIGXFSZ)."""
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    yield


def forked(
    work: Callable[[], None],
    log: Path,
    *,
    after: float | None = None,
    within: contextlib.AbstractContextManager[None] | None = None,
) -> tuple[int, float]:
    """Exit code (minus the signal when killed) and seconds of `work` in a process of its own.

    after: seconds until it is killed. within: entered there. What it prints goes to `log`.
    """
    started = time.monotonic()
    printed, into = os.pipe()  # not a file, whose size may be limited
    child = os.fork()
    if child == 0:
        code = 70
        try:
            os.setsid()
            os.dup2(into, 1)
            os.dup2(into, 2)
            with within or contextlib.nullcontext():
                work()
            code = 0
        except SystemExit as error:
            code = error.code if isinstance(error.code, int) else 0
        except BaseException:
            traceback.print_exc()
        finally:
            with contextlib.suppress(OSError):
                sys.stdout.flush()
                sys.stderr.flush()
            os._exit(code)
    os.close(into)
    if after is not None:
        time.sleep(after)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child, signal.SIGKILL)
    with open(printed, "rb") as pipe:
        log.write_bytes(pipe.read())
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status), time.monotonic() - started
