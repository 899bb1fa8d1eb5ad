"""Files that appear whole or not at all."""

import fcntl
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

__all__ = ["atomic_write", "hidden_beside", "sweep_beside", "sync_to_disk"]

SUFFIX = ".part"


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success it is made durable and takes its name.

    The file is flushed to disk before the rename, the folder after it, so that neither a crash nor
    a power cut leaves half a file under `path`. On an error the temporary file is removed and what
    stood at `path` stays. What a killed process left of the same file is removed. Raises `OSError`
    as the file system does.
    """
    sweep_beside(path)
    with hidden_beside(path, folder=False) as temporary:
        yield temporary
        _chmod_as_new(temporary)
        sync_to_disk(temporary)
        temporary.replace(path)
        # From here on the file is there: a folder that cannot be synced does not undo it.
        with suppress(OSError):
            sync_to_disk(path.parent)


@contextmanager
def hidden_beside(path: Path, *, folder: bool) -> Iterator[Path]:
    """Yield a new hidden file or folder beside `path`, gone at the end if it is still there.

    It is locked while this process lives, so that `sweep_beside` of another leaves it alone.
    """
    while True:
        prefix = _prefix(path)
        if folder:
            name = tempfile.mkdtemp(prefix=prefix, suffix=SUFFIX, dir=path.parent)
            held = os.open(name, os.O_RDONLY)
        else:
            held, name = tempfile.mkstemp(prefix=prefix, suffix=SUFFIX, dir=path.parent)
        if not _lock(held) or _is_at(held, name):
            break
        os.close(held)  # somebody swept it before it was locked
    temporary = Path(name)
    try:
        yield temporary
    finally:
        os.close(held)
        if folder:
            shutil.rmtree(temporary, ignore_errors=True)
        else:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)


def sweep_beside(path: Path) -> list[Path]:
    """Remove the hidden files beside `path` that killed processes left of it.

    Returns their folders, which are not removed. Never raises.
    """
    folders: list[Path] = []
    ours = re.compile(re.escape(_prefix(path)) + r"[a-z0-9_]{8}" + re.escape(SUFFIX))
    with suppress(OSError):
        for entry in os.scandir(path.parent):
            if not ours.fullmatch(entry.name) or entry.is_symlink():
                continue
            with suppress(OSError):
                held = os.open(entry.path, os.O_RDONLY | os.O_NONBLOCK)
                try:
                    if not _lock(held):
                        continue
                    if entry.is_dir():
                        folders.append(Path(entry.path))
                    else:
                        os.unlink(entry.path)
                finally:
                    os.close(held)
    return folders


def _prefix(path: Path) -> str:
    name = path.name[:100]
    while len(os.fsencode(name)) > 200:  # the longest name is 255 bytes
        name = name[:-1]
    return f".{name}."


def _lock(descriptor: int) -> bool:
    """Lock it for this process; False where another has it, or the file system has no locks."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _is_at(descriptor: int, name: str) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(name))
    except OSError:
        return False


def _chmod_as_new(path: Path) -> None:
    """mkstemp makes private files; give the mode that a plain `open` would have given."""
    path.chmod(0o666 & ~_mask())


def _mask() -> int:
    """The umask, where possible without changing it: other threads make files meanwhile."""
    with suppress(OSError, ValueError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("Umask:"):
                return int(line.split()[1], 8)
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def sync_to_disk(path: Path) -> None:
    """Have what was written of a file, or of a folder's names, on the disk before going on."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
