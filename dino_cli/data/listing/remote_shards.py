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
from urllib.parse import unquote, urlsplit

from dino_cli.data.listing.index_cache import cache_folder
from dino_cli.data.listing.shards import is_shard
from dino_cli.errors import TaskError
from dino_cli.progress import Reporter

__all__ = ["fetch_shards", "is_url"]

SCHEMES = ("http", "https", "ftps", "sftp", "scp", "gs", "hf", "ais")
PIECE = 1 << 20


def is_url(argument: str) -> bool:
    return "://" in argument


def fetch_shards(urls: Sequence[str], reporter: Reporter, *, offline: bool) -> list[str]:
    """Local paths of the shards behind the URLs, in their order.

    What was fetched before stays; processes that want the same one wait for it. Raises `TaskError`
    for what cannot be fetched or is no `.tar`; offline: for all that was not fetched before.
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
            _fetch(url, path)
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


def _fetch(url: str, path: Path) -> None:
    from filelock import FileLock  # torch brings it

    part = path.with_name(f"{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_name(".lock")):
            if path.is_file():  # another process was faster
                return
            try:
                with closing(_pieces(url)) as pieces, open(part, "wb") as target:
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


def _pieces(url: str) -> Generator[bytes, None, None]:
    """What a URL gives. Raises `TaskError` when that is not all of it."""
    from webdataset.gopen import gopen

    try:
        with gopen(url, "rb") as source:  # which raises at its end, too
            while piece := source.read(PIECE):
                yield piece
    except FileNotFoundError as error:
        if error.filename is None:
            raise _not_given(url) from None
        raise TaskError(
            f"cannot fetch {url!r}: {error.filename} is missing", "install it"
        ) from None
    except Exception:  # of the libraries that ask the network for one scheme or another
        raise _not_given(url) from None


def _not_given(url: str) -> TaskError:
    return TaskError(
        f"cannot fetch {url!r}: the server does not give it, or the connection broke",
        "check the address",
    )
