"""Several results that appear together in a folder, or not at all."""

import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from dino_cli.errors import TaskError

__all__ = ["check_free", "staged"]


def check_free(output: Path, names: Sequence[str], *, overwrite: bool) -> None:
    """Raises `TaskError` when `output` cannot hold these files and folders; touches nothing."""
    if not output.parent.is_dir():
        raise TaskError(f"the folder {str(output.parent)!r} does not exist", "create it first")
    if output.exists() and not output.is_dir():
        raise TaskError(f"{str(output)!r} is a file", "name a folder with -o")
    present = [output / name for name in names if (output / name).exists()]
    if present and not overwrite:
        raise TaskError(f"{str(present[0])!r} exists already", "use --overwrite or another -o")


@contextmanager
def staged(output: Path, names: Sequence[str]) -> Iterator[Path]:
    """Yield a hidden folder beside `output`; at the end those of `names` in it move to `output`.

    They replace what stands there under the same names, the last name last; everything else in
    `output` stays. After an error nothing has changed. Raises `TaskError` when nothing can be
    written there, and otherwise what the block raises.
    """
    created = not output.exists()
    try:
        stage = Path(tempfile.mkdtemp(prefix=f".{output.name[:100]}.", dir=output.parent))
    except OSError as error:
        raise TaskError(
            f"cannot write beside {str(output)!r} ({error.strerror})", "choose another -o"
        ) from None
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
        raise TaskError(
            f"cannot write {str(output)!r}: {error.strerror or error}",
            "make room, or choose another -o",
        ) from None
    finally:
        shutil.rmtree(stage, ignore_errors=True)


def _replace(stage: Path, output: Path, name: str, moved: list[tuple[Path, Path | None]]) -> None:
    target, old = output / name, None
    if target.exists() or target.is_symlink():
        old = stage / f"old-{name}"
        target.rename(old)
    moved.append((target, old))
    (stage / name).rename(target)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
