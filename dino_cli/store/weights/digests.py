"""Whether a downloaded file is still the one that was downloaded. Standard library only.

A digest is expected because the registry pins it, because the hub's cache names large files by
theirs, or because it was recorded beside the file, as `sha256sum` does, when it was first fetched.
"""

import hashlib
import re
from contextlib import suppress
from pathlib import Path

from dino_cli.errors import TaskError
from dino_cli.store.writing.atomic import atomic_write

__all__ = ["check", "expected", "record", "record_path", "sha256_of"]


def sha256_of(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def record_path(path: Path) -> Path:
    """a.pth → a.pth.sha256, for `sha256sum --check`."""
    return path.with_name(f"{path.name}.sha256")


def expected(path: Path, pinned: str | None) -> tuple[str, str] | None:
    """The digest a file should have and who says so (`pinned`, `hub`, `recorded`); None: nobody."""
    if pinned is not None:
        return pinned, "pinned"
    blob = path.resolve()
    if blob.parent.name == "blobs" and re.fullmatch(r"[0-9a-f]{64}", blob.name):
        return blob.name, "hub"
    with suppress(OSError, UnicodeDecodeError):
        found = re.match(r"[0-9a-f]{64}\b", record_path(path).read_text(encoding="utf-8"))
        if found is not None:
            return found[0], "recorded"
    return None


def record(path: Path, sha256: str) -> None:
    """Note a digest beside the file; in a cache that cannot be written nothing is noted."""
    with suppress(OSError), atomic_write(record_path(path)) as temporary:
        temporary.write_text(f"{sha256}  {path.name}\n", encoding="utf-8")


def check(name: str, path: Path, sha256: str, pinned: str | None = None) -> str:
    """Compare a digest with the expected one, or record it; who expected it, or `new`.

    name: of the model. Raises `TaskError` when the file has changed.
    """
    wanted = expected(path, pinned)
    if wanted is None:
        record(path, sha256)
        return "new"
    if wanted[0] != sha256:
        raise TaskError(
            f"{str(path)!r} is not the file that was published as {name!r} (its SHA-256 is"
            f" {sha256[:12]}…, {wanted[1]} {wanted[0][:12]}…)",
            f"fetch it again: dino weights remove {name}, then dino weights download {name}",
        )
    return wanted[1]
