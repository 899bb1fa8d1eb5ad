"""What lies in the caches: whether it is still what was published, and getting rid of it."""

import shutil
from dataclasses import dataclass
from pathlib import Path

from dino_cli.errors import TaskError
from dino_cli.progress import Reporter
from dino_cli.store.weights.digests import check, expected, record_path, sha256_of
from dino_cli.store.weights.download import partial_files
from dino_cli.store.weights.folders import weight_files
from dino_cli.store.weights.hub import LocatedWeights, locate
from dino_cli.store.weights.registry import shipped_folder
from dino_cli.store.weights.repository import hub_folder

__all__ = ["VerifiedFile", "remove_model", "verify_model"]


@dataclass(frozen=True)
class VerifiedFile:
    """A file compared with the digest it should have.

    by: who expects `wanted`: `pinned` (our registry), `hub`, `recorded` at the first download, or
    `new`: recorded just now, since nobody knew it.
    """

    name: str
    path: Path
    sha256: str
    wanted: str
    by: str

    @property
    def good(self) -> bool:
        return self.sha256 == self.wanted


def verify_model(name: str) -> list[VerifiedFile]:
    """Compare every file of a model on this disk. Raises `TaskError` when there is none."""
    found = locate(name, offline=True, reporter=Reporter())
    verified = []
    for path in weight_files(found.path):
        digest = sha256_of(path)
        wanted = expected(path, found.sha256)
        if wanted is None:
            wanted = digest, check(name, path, digest)
        verified.append(VerifiedFile(name, path, digest, *wanted))
    return verified


def remove_model(name: str) -> list[tuple[Path, int]]:
    """Delete a model from the caches, every copy of it: what went, and its bytes.

    Raises `TaskError` for one that is not there, or that ships with the package.
    """
    removed = [_remove(name, locate(name, offline=True, reporter=Reporter()))]
    while True:
        try:
            removed.append(_remove(name, locate(name, offline=True, reporter=Reporter())))
        except TaskError:
            return removed


def _remove(name: str, found: LocatedWeights) -> tuple[Path, int]:
    path = found.path
    if path.parent == shipped_folder():
        raise TaskError(f"the model {name!r} ships with the package", "leave it")
    hub = hub_folder()
    if path.is_relative_to(hub):
        folder = hub / path.relative_to(hub).parts[0]
        return folder, _delete_folder(folder)
    size = path.stat().st_size
    try:
        path.unlink()
        for left in (record_path(path), *partial_files(path)):
            left.unlink(missing_ok=True)
    except OSError as error:
        raise TaskError(f"cannot delete {str(path)!r}: {error.strerror}", "check it") from None
    return path, size


def _delete_folder(folder: Path) -> int:
    """A repository of the hub's cache, whose snapshots are links to its blobs."""
    size = sum(p.stat().st_size for p in folder.rglob("*") if p.is_file() and not p.is_symlink())
    try:
        shutil.rmtree(folder)
    except OSError as error:
        raise TaskError(f"cannot delete {str(folder)!r}: {error.strerror}", "check it") from None
    shutil.rmtree(folder.parent / ".locks" / folder.name, ignore_errors=True)
    return size
