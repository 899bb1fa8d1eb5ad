"""Listings that are expensive to make, kept between runs under the user's cache folder.

`DINO_CACHE` names another folder, or `off` for none. Whatever is wrong with the cache (damage, no
permission, a full disk), the listing is made anew and nothing is said.
"""

import os
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["cache_folder", "load_index", "save_index"]

UNUSED_DAYS = 90  # an index that nobody asked for that long is deleted


def cache_folder() -> Path | None:
    """Where listings and fetched shards are kept; None when switched off."""
    chosen = os.environ.get("DINO_CACHE", "")
    if chosen.lower() == "off":
        return None
    if chosen:
        return Path(chosen).expanduser()
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    try:
        return Path(base).expanduser() / "dino"
    except RuntimeError:  # a user without a home
        return None


def load_index(key: str) -> dict[str, NDArray[Any]] | None:
    """The arrays that were saved under `key`; None when there are none, or no sound ones."""
    path = _path(key)
    if path is None:
        return None
    try:
        with np.load(path, allow_pickle=False) as arrays:
            index = {name: arrays[name] for name in arrays.files}  # checks their CRCs
    except Exception:  # a damaged archive ends in any exception whatever
        return None
    if bytes(index.pop("key", np.empty(0, np.uint8))) != _bytes(key):
        return None
    with suppress(OSError):
        os.utime(path)
    return index


def save_index(key: str, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Keep arrays under `key`, in the place of earlier ones; at once or not at all."""
    path = _path(key)
    if path is None:
        return
    part = ""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, part = tempfile.mkstemp(dir=path.parent, suffix=".part")
        with os.fdopen(handle, "wb") as file:
            named = {"key": np.frombuffer(_bytes(key), np.uint8), **arrays}
            np.savez(file, **named)  # type: ignore[arg-type]
        os.replace(part, path)
        part = ""
        _forget_unused(path.parent)
    except OSError:
        pass
    finally:
        if part:
            with suppress(OSError):
                os.unlink(part)


def _path(key: str) -> Path | None:
    folder = cache_folder()
    return folder and folder / "index" / f"{sha256(_bytes(key)).hexdigest()[:32]}.npz"


def _bytes(key: str) -> bytes:
    return key.encode("utf-8", "surrogateescape")


def _forget_unused(folder: Path) -> None:
    oldest = time.time() - UNUSED_DAYS * 24 * 3600
    for entry in os.scandir(folder):
        with suppress(OSError):
            if entry.name.endswith((".npz", ".part")) and entry.stat().st_mtime < oldest:
                os.unlink(entry)
