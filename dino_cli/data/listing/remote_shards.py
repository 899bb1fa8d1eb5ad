"""Shards behind URLs: fetched once into the cache folder, then local files like others.

The `webdataset` library opens the streams (through curl, or gsutil for gs).
"""

import os
import tarfile
from collections.abc import Generator, Sequence
from contextlib import closing, suppress
from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path
from queue import Empty, Full, Queue
from subprocess import Popen
from threading import Event, Thread
from urllib.parse import unquote, urlsplit

from dino_cli.data.listing.index_cache import cache_folder
from dino_cli.data.listing.shards import is_shard
from dino_cli.errors import TaskError
from dino_cli.progress import Reporter

__all__ = ["fetch_shards", "is_url"]

SCHEMES = ("http", "https", "ftps", "sftp", "scp", "gs", "hf", "ais")
PIECE = 1 << 16
AHEAD = 16  # pieces in memory
# curl asks again for a quarter of an hour, and waits for ever once it is connected, without a word.
TOLD_AFTER, GIVEN_UP_AFTER = 30.0, 120.0  # seconds without a piece


def is_url(argument: str) -> bool:
    return "://" in argument


def fetch_shards(urls: Sequence[str], reporter: Reporter, *, offline: bool) -> list[str]:
    """Local paths of the shards behind the URLs, in their order.

    What was fetched before stays; processes that want the same one wait for it. A server that sends
    nothing is told after `TOLD_AFTER` seconds. Raises `TaskError` for what cannot be fetched, of
    which nothing comes for `GIVEN_UP_AFTER` seconds, or which is no `.tar`; offline: for all that
    was not fetched before.
    """
    for url in urls:
        _check(url)
    folder = cache_folder()
    if folder is None:
        raise TaskError(
            f"{urls[0]!r} needs the cache folder, which DINO_CACHE=off switches off",
            "set DINO_CACHE to a folder, or fetch the shards yourself",
        )
    paths = [folder / "shards" / sha256(url.encode()).hexdigest()[:16] / _name(url) for url in urls]
    missing = [(url, path) for url, path in zip(urls, paths, strict=True) if not path.is_file()]
    if missing and offline:
        raise TaskError(
            f"{missing[0][0]!r} was not fetched before, and --offline asks no network",
            "leave it out once, or name a local copy",
        )
    if missing:
        if not find_spec("webdataset"):
            raise TaskError(
                f"{missing[0][0]!r} needs the package webdataset",
                "pip install 'dino-cli[shards]'",
            )
        for url, path in reporter.track(missing, "fetching", len(missing), "shards"):
            _fetch(url, path, reporter)
    return [str(path) for path in paths]


def _check(url: str) -> None:
    scheme = url.split("://", 1)[0]
    if scheme not in SCHEMES:
        raise TaskError(
            f"{url!r} has a scheme that is not among {', '.join(SCHEMES)}", "use a local copy"
        )
    if not is_shard(_name(url)):
        raise TaskError(f"{url!r} does not end in .tar", "only shards are fetched")


def _name(url: str) -> str:
    return Path(unquote(urlsplit(url).path)).name


def _fetch(url: str, path: Path, reporter: Reporter) -> None:
    from filelock import FileLock  # torch brings it

    part = path.with_name(f"{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_name(".lock")):
            if path.is_file():  # another process was faster
                return
            try:
                with closing(_pieces(url, reporter)) as pieces, open(part, "wb") as target:
                    target.writelines(pieces)
                    target.flush()
                    os.fsync(target.fileno())
                if part.stat().st_size == 0:
                    raise _not_given(url)
                if not tarfile.is_tarfile(part):  # a page that says why not; kept, it would stay
                    raise TaskError(f"what {url!r} gives is no tar", "check the address")
                os.replace(part, path)
            finally:  # not before the lock is held: until then it is another's
                with suppress(OSError):
                    part.unlink()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise TaskError(
            f"cannot keep {url!r} in {str(path.parent)!r}: {reason}",
            "make that possible, or set DINO_CACHE to another folder",
        ) from None


def _pieces(url: str, reporter: Reporter) -> Generator[bytes, None, None]:
    """What a URL gives. Raises `TaskError` when that is not all of it."""
    try:
        with closing(_Stream(url)) as stream:
            while piece := _next_piece(stream, url, reporter):
                yield piece
    except TaskError:
        raise
    except FileNotFoundError as error:
        if error.filename is None:
            raise _not_given(url) from None
        raise TaskError(
            f"cannot fetch {url!r}: {error.filename} is missing", "install it"
        ) from None
    except Exception:  # of the libraries that ask the network for one scheme or another
        raise _not_given(url) from None


def _next_piece(stream: "_Stream", url: str, reporter: Reporter) -> bytes:
    piece = stream.next(TOLD_AFTER)
    if piece is None:
        if not stream.told:
            stream.told = True
            reporter.remark(
                f"nothing has come from {url!r} for {TOLD_AFTER:g} seconds; trying on, for"
                f" {GIVEN_UP_AFTER:g} at most"
            )
        piece = stream.next(GIVEN_UP_AFTER - TOLD_AFTER)
    if piece is None:
        raise TaskError(
            f"cannot fetch {url!r}: nothing has come for {GIVEN_UP_AFTER:g} seconds",
            "check the address and the network, or fetch it yourself",
        )
    return piece


class _Stream:
    """What webdataset reads from a URL, by a thread, so that one can stop waiting for it."""

    def __init__(self, url: str) -> None:
        self.told = False  # that nothing comes
        self._pieces: Queue[bytes | Exception] = Queue(AHEAD)
        self._closed = Event()
        self._process: Popen[bytes] | None = None
        self._thread = Thread(target=self._read, args=(url,), daemon=True)
        self._thread.start()

    def next(self, seconds: float) -> bytes | None:
        """A piece, empty at the end; None when there is none in time. Raises what reading does."""
        try:
            piece = self._pieces.get(timeout=seconds)
        except Empty:
            return None
        if isinstance(piece, Exception):
            raise piece
        return piece

    def close(self) -> None:
        """Ends the program that asks, if it still does; what it has sent is forgotten."""
        self._closed.set()
        if self._process is not None:
            self._process.kill()
            self._thread.join(timeout=1.0)  # it collects what is left of the program

    def _read(self, url: str) -> None:
        try:
            from webdataset.gopen import gopen

            with gopen(url, "rb") as source:  # which raises at its end, too
                self._process = getattr(source, "proc", None)
                while not self._closed.is_set() and (piece := source.read(PIECE)):
                    self._put(piece)
                if self._closed.is_set() and self._process is not None:
                    self._process.kill()  # it may have started only now
            self._put(b"")
        except Exception as error:
            self._put(error)

    def _put(self, piece: bytes | Exception) -> None:
        while not self._closed.is_set():
            with suppress(Full):
                return self._pieces.put(piece, timeout=0.1)


def _not_given(url: str) -> TaskError:
    return TaskError(
        f"cannot fetch {url!r}: the server does not give it, or the connection broke",
        "check the address",
    )
