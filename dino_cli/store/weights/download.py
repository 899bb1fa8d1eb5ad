"""Original files by their address, into torch.hub's cache, where the reference puts them too."""

import hashlib
import os
import threading
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from dino_cli.errors import TaskError
from dino_cli.progress import Reporter
from dino_cli.store.atomic import atomic_write

__all__ = [
    "ANSWER_SECONDS",
    "GIVE_UP_SECONDS",
    "Unanswered",
    "cached_download",
    "download",
    "within",
]

T = TypeVar("T")
ANSWER_SECONDS = 3.0  # for the first answer of a server
GIVE_UP_SECONDS = 4.0  # the same, name look-up and all, so that a person waits 5 s at most
STALL_SECONDS = 30.0  # without a byte, in the middle of a download
CHUNK = 1 << 20


class Unanswered(Exception):
    """The server cannot be reached, or answers that it has no such file; says which."""


def cached_download(url: str) -> Path | None:
    """The file of this address in torch.hub's cache."""
    path = _place(url)
    return path if path.is_file() else None


def download(url: str, sha256: str | None, reporter: Reporter) -> Path:
    """Fetch a file; it appears whole or not at all. Honours the proxies of the environment.

    Raises `Unanswered` within five seconds, `TaskError` when the download breaks off, differs from
    `sha256`, or cannot be written.
    """
    path = _place(url)
    response = within(GIVE_UP_SECONDS, lambda: _opened(url))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        total = int(response.headers.get("Content-Length") or 0)
        reporter.remark(f"fetching {url} ({total / 1e6:.0f} MB) into {path.parent}")
        reporter.stage(f"fetching {path.name}", total // CHUNK or None, "MiB")
        digest, received = hashlib.sha256(), 0
        with response, atomic_write(path) as temporary, temporary.open("wb") as file:
            while chunk := response.read(CHUNK):
                file.write(chunk)
                digest.update(chunk)
                received += len(chunk)
                reporter.advance()
            if total and received != total:
                raise TaskError(
                    f"the download of {url} broke off after {received} of {total} bytes",
                    "try again",
                )
            if sha256 is not None and digest.hexdigest() != sha256:
                raise TaskError(f"{url} is not the file it should be (SHA-256)", "try again later")
        reporter.finish()
    except OSError as error:
        raise TaskError(
            f"the download of {url} into {path.parent} failed ({error})", "try again"
        ) from None
    return path


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


def _opened(url: str) -> Any:
    try:
        response = urllib.request.urlopen(url, timeout=ANSWER_SECONDS)
    except urllib.error.HTTPError as error:
        error.close()
        raise Unanswered(f"its server answered {error.code}") from None
    except OSError:
        raise Unanswered("its server does not answer") from None
    connection = getattr(getattr(response, "fp", None), "raw", None)
    if (socket := getattr(connection, "_sock", None)) is not None:
        socket.settimeout(STALL_SECONDS)
    return response


def _place(url: str) -> Path:
    """As torch.hub does it, without importing torch."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "torch"
    home = Path(os.environ.get("TORCH_HOME") or cache).expanduser()
    return home / "hub" / "checkpoints" / url.rsplit("/", 1)[-1]
