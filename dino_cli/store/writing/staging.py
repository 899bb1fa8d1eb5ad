"""Several results that appear together in a folder, or not at all."""

import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from dino_cli.store.writing.atomic import hidden_beside, sweep_beside
from dino_cli.store.writing.targets import cannot_write

__all__ = ["stage_results"]

OLD = "old-"  # before the names of what is being replaced


@contextmanager
def stage_results(output: Path, names: Sequence[str]) -> Iterator[Path]:
    """Yield a hidden folder in or beside `output`; at the end those of `names` in it move there.

    They replace what stands there under the same names, the last name last; everything else in
    `output` stays. After an error nothing has changed. Raises `TaskError` when nothing can be
    written there, and otherwise what the block raises.
    """
    inside = output / "results"
    for left in [*sweep_beside(output), *sweep_beside(inside)]:  # of a process that was killed
        _put_back(left, output)
    # A folder that is there may be a file system of its own, into which nothing can be moved.
    place = inside if output.is_dir() else output
    with ExitStack() as stack:
        try:
            stage = stack.enter_context(hidden_beside(place, folder=True))
        except OSError as error:
            raise cannot_write(place.parent, error, "choose another -o") from None
        yield from _filled(stage, output, names)


def _filled(stage: Path, output: Path, names: Sequence[str]) -> Iterator[Path]:
    created = not output.exists()
    moved: list[tuple[Path, Path | None]] = []
    try:
        yield stage
        try:
            output.mkdir(exist_ok=True)
            for name in names:
                if (stage / name).exists():
                    _replace(stage, output, name, moved)
        except BaseException:
            for target, old in reversed(moved):
                _remove(target)
                if old is not None:
                    old.rename(target)
            if created and output.is_dir():
                shutil.rmtree(output, ignore_errors=True)
            raise
    except OSError as error:
        raise cannot_write(output, error) from None


def _replace(stage: Path, output: Path, name: str, moved: list[tuple[Path, Path | None]]) -> None:
    target, old = output / name, None
    if target.exists() or target.is_symlink():
        old = stage / f"{OLD}{name}"
        both_files = target.is_file() and (stage / name).is_file() and not target.is_symlink()
        try:
            if not both_files:
                raise OSError
            old.hardlink_to(target)  # so that a file is there at every instant
        except OSError:  # a folder, or a file system without links
            target.rename(old)
    moved.append((target, old))
    (stage / name).replace(target)


def _put_back(left: Path, output: Path) -> None:
    """What a killed process had moved out of the way returns, unless something stands there."""
    with suppress(OSError):
        for old in left.iterdir():
            target = output / old.name.removeprefix(OLD)
            if old.name.startswith(OLD) and output.is_dir() and not os.path.lexists(target):
                old.rename(target)
        shutil.rmtree(left, ignore_errors=True)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
