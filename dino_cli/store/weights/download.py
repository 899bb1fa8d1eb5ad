"""Original files by their address, into torch.hub's cache, where the reference puts them too.

A download that breaks off goes on where it stopped, in this call and in later ones.
"""

import errno
import http.client
import os
import shutil
import threading
import urllib.error
import urllib.request
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

from dino_cli.errors import TaskError
from dino_cli.progress import Reporter
from dino_cli.store.weights.digests import record, sha256_of

__all__ = [
    "ANSWER_SECONDS",
    "GIVE_UP_SECONDS",
    "Megabytes",
    "Unanswered",
    "answers",
    "cached_download",
    "download",
    "no_room",
    "partial_files",
    "require_room",
    "within",
]

T = TypeVar("T")
ANSWER_SECONDS = 2.5  # for the first answer of a server
GIVE_UP_SECONDS = 3.0  # the same, name look-up and all; with Python's start, 5 s for a person
STALL_SECONDS = 30.0  # without a byte, in the middle of a download
TRIES = 5  # connections for one file; one that brings nothing new is the last
CHUNK = 1 << 20


class Unanswered(Exception):
    """The server cannot be reached, or answers that it has no such file; says which."""

    def __init__(self, what: str, status: int | None = None) -> None:
        super().__init__(what)
        self.status = status


class Megabytes:
    """Bytes as a stage of a reporter, in whole megabytes."""

    def __init__(self, reporter: Reporter, name: str, total: int | None, done: int = 0) -> None:
        self._reporter, self._bytes = reporter, done
        reporter.stage(name, -(-total // 10**6) if total else None, "MB", done // 10**6)

    def add(self, count: int) -> None:
        """So many bytes more."""
        before, self._bytes = self._bytes, self._bytes + count
        if whole := self._bytes // 10**6 - before // 10**6:
            self._reporter.advance(whole)


def cached_download(url: str) -> Path | None:
    """The file of this address in torch.hub's cache."""
    path = _place(url)
    return path if path.is_file() else None


def download(url: str, sha256: str | None, reporter: Reporter) -> Path:
    """Fetch a file; it appears whole or not at all. Honours the proxies of the environment.

    What a broken connection leaves is kept beside it, hidden, and the next call goes on from there.
    Of several processes one fetches and the others wait. The digest is recorded beside the file.
    Raises `Unanswered` within three seconds, `TaskError` when the download breaks off, differs from
    `sha256`, or cannot be written.
    """
    from filelock import FileLock, Timeout

    path = _place(url)
    part, lock = partial_files(path)[:2]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with suppress(Timeout), FileLock(lock, timeout=0):
            return _fetched(url, path, part, sha256, reporter)
        reporter.remark(f"another process is fetching {url}; waiting for it")
        with FileLock(lock):
            return path if path.is_file() else _fetched(url, path, part, sha256, reporter)
    except OSError as error:
        raise no_room(url, path.parent, error) from None
    finally:
        with suppress(OSError):
            if path.is_file() or not part.exists():
                lock.unlink(missing_ok=True)


def answers(url: str) -> None:
    """Raises `Unanswered` within three seconds unless the server has the file."""
    _opened(url, {}).close()


def partial_files(path: Path) -> tuple[Path, ...]:
    """What a download may have left beside `path`: the part, its lock, and the part's version."""
    return tuple(path.with_name(f".{path.name}.{kind}") for kind in ("part", "lock", "version"))


def _fetched(url: str, path: Path, part: Path, sha256: str | None, reporter: Reporter) -> Path:
    if path.is_file():
        with suppress(OSError):  # a cache that cannot be written serves too
            _forget(path)  # of a process killed right after the rename
        return path
    for attempt in range(TRIES):
        before = _size(part)
        try:
            total, problem = _continue(url, path, part, reporter, first=attempt == 0)
        except Unanswered as error:
            if not before:
                raise
            total, problem = None, str(error)
        received = _size(part)
        if not problem and (total is None or received == total):
            break
        if received <= before or attempt == TRIES - 1:
            of = f" of {total}" if total else ""
            raise TaskError(
                f"the download of {url} broke off after {received}{of} bytes"
                + (f" ({problem})" if problem else ""),
                "run the same command again: it goes on from there",
            )
    digest = sha256_of(part)
    if sha256 is not None and digest != sha256:
        _forget(path)
        raise TaskError(f"{url} is not the file it should be (SHA-256)", "try again later")
    with part.open("rb") as file:
        os.fsync(file.fileno())
    record(path, digest)  # first: a file that is there has been recorded
    part.replace(path)
    _forget(path)
    reporter.finish()
    return path


def _continue(
    url: str, path: Path, part: Path, reporter: Reporter, *, first: bool
) -> tuple[int | None, str]:
    """Append to `part` what one connection brings: the whole size, and why it ended early."""
    version = partial_files(path)[2]
    response, have = _answer(url, part, version)
    with response:
        length = response.headers.get("Content-Length")
        total = have + int(length) if length else None
        if first:
            size = f"{total / 1e6:.0f} MB" if total else "size unknown"
            from_where = f", going on at {have / 1e6:.0f} MB" if have else ""
            reporter.remark(f"fetching {url} ({size}{from_where}) into {path.parent}")
        require_room(path.parent, (total or have) - have, url)
        tag = response.headers.get("ETag") or response.headers.get("Last-Modified") or ""
        if tag.startswith("W/"):
            tag = ""  # it promises no equal bytes; nor may an earlier one stay, of other bytes
        version.write_text(tag, encoding="utf-8")
        progress = Megabytes(reporter, f"fetching {path.name}", total, have)
        with part.open("ab" if have else "wb") as file:
            while True:
                try:
                    chunk = response.read(CHUNK)
                except http.client.IncompleteRead as error:
                    file.write(error.partial)
                    return total, "the connection was closed"
                except OSError as error:
                    return total, str(error)
                if not chunk:
                    return total, ""
                file.write(chunk)
                progress.add(len(chunk))


def _answer(url: str, part: Path, version: Path) -> tuple[Any, int]:
    """The server's, and behind how many bytes of `part` it goes on: all of them or none."""
    have = _size(part)
    if have and version.exists() and (known := version.read_text(encoding="utf-8")):
        try:
            response = _opened(url, {"Range": f"bytes={have}-", "If-Range": known})
        except Unanswered as error:
            if error.status != 416:  # else there is nothing behind what we have: it is another file
                raise
        else:
            if response.status != 206:
                return response, 0
            if str(response.headers.get("Content-Range", "")).startswith(f"bytes {have}-"):
                return response, have
            response.close()  # another part than was asked for
        for left in (part, version):  # and not the lock, which is held
            left.unlink(missing_ok=True)
    return _opened(url, {}), 0


def _forget(path: Path) -> None:
    for left in partial_files(path):
        left.unlink(missing_ok=True)


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def require_room(folder: Path, count: int, what: str) -> None:
    """Raises `TaskError` when the disk of `folder` has no room for so many bytes more."""
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    if count > free:
        raise TaskError(
            f"{what} needs {count / 1e6:.0f} MB, and the disk of {str(folder)!r} has"
            f" {free / 1e6:.0f} MB left",
            "make room, or put the cache elsewhere with HF_HOME and TORCH_HOME",
        )


def no_room(what: str, folder: Path, error: OSError) -> TaskError:
    """The sentence for a file system that refuses a download."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return TaskError(
            f"{what} does not fit the disk of {str(folder)!r} ({error.strerror})",
            "make room, or put the cache elsewhere with HF_HOME and TORCH_HOME",
        )
    return TaskError(
        f"{what} cannot be written into {str(folder)!r} ({error.strerror or error})",
        "make it writable, or put the cache elsewhere with HF_HOME and TORCH_HOME",
    )


def within(seconds: float, call: Callable[[], T]) -> T:
    """The result of `call`, or `Unanswered` after `seconds`: a name look-up knows no time limit."""
    result: list[T] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            result.append(call())
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    if errors:
        raise errors[0]
    if not result:
        raise Unanswered("no answer in time")
    return result[0]


def _opened(url: str, headers: dict[str, str]) -> Any:
    """The answer to a request, within three seconds. Raises `Unanswered`."""
    request = urllib.request.Request(url, headers=headers)

    def ask() -> Any:
        try:
            return urllib.request.urlopen(request, timeout=ANSWER_SECONDS)
        except urllib.error.HTTPError as error:
            error.close()
            raise Unanswered(f"its server answered {error.code}", error.code) from None
        except (OSError, http.client.HTTPException):
            raise Unanswered("its server does not answer") from None

    response = within(GIVE_UP_SECONDS, ask)
    connection = getattr(getattr(response, "fp", None), "raw", None)
    if (socket := getattr(connection, "_sock", None)) is not None:
        socket.settimeout(STALL_SECONDS)
    return response


def _place(url: str) -> Path:
    """As torch.hub does it, without importing torch."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "torch"
    home = Path(os.environ.get("TORCH_HOME") or cache).expanduser()
    return home / "hub" / "checkpoints" / url.rsplit("/", 1)[-1]
