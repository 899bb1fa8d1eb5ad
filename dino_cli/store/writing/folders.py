"""Result folders, one per input: which names, whether they are free, and writing them whole."""

import os
import re
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from hashlib import blake2s
from pathlib import Path, PurePath

from dino_cli.errors import TaskError
from dino_cli.store.writing.targets import already_exists, check_folder

__all__ = ["ResultFolders", "folder_names", "hidden_folder"]


def folder_names(inputs: Sequence[PurePath], reserved: Sequence[str] = ()) -> list[PurePath]:
    """A distinct relative folder for each input: its path without the suffix.

    Where that is ambiguous (`cat.jpg` beside `cat.png`, or beside a folder `cat/`), the whole name;
    where even that is taken, the whole name and a number. None lies inside another's.
    """
    whole = [_inside(path) for path in inputs]
    short = [path.with_name(path.stem.rstrip(". ") or path.name) for path in whole]
    times = Counter(short)
    above = {parent for path in whole for parent in path.parents}
    names = [
        full if times[stem] > 1 or stem in above else stem
        for stem, full in zip(short, whole, strict=True)
    ]
    taken = above | {PurePath(name) for name in reserved}
    wanted = set(names)
    chosen = []
    for name in names:
        free, number = name, 2
        while free in taken or (number > 2 and free in wanted):
            free = name.with_name(f"{name.name}-{number}")
            number += 1
        taken.add(free)
        chosen.append(free)
    return chosen


def _inside(path: PurePath) -> PurePath:
    """A relative path that stays below the output folder, whatever the input's looked like."""
    kept = [part for part in path.parts if part != ".." and part != path.anchor]
    return PurePath(*kept) if kept else PurePath("picture")


def hidden_folder(folder: Path, state: str) -> Path:
    """A name beside the folder, hidden, never too long, the same in every run."""
    return folder.with_name(f".{blake2s(os.fsencode(folder.name)).hexdigest()[:16]}.{state}")


class ResultFolders:
    """Writes result folders below one output folder, each appearing whole or not at all.

    own: names of the files that a result folder may hold. Only folders with nothing else in them
    are ever replaced. `discard` takes back what was written.
    """

    def __init__(self, root: Path, own: re.Pattern[str]) -> None:
        self.root, self.own = root, own
        self._root_existed = root.exists()
        self._new: list[Path] = []

    def check(self, names: Sequence[PurePath], *, overwrite: bool) -> None:
        """Raises `TaskError` if results cannot or must not be written there; touches nothing."""
        check_folder(self.root)
        present = [self.root / name for name in names if os.path.lexists(self.root / name)]
        if present and not overwrite:
            raise already_exists(present)
        for folder in present:
            if folder.is_symlink() or not folder.is_dir():
                raise TaskError(f"{str(folder)!r} is not a folder", "choose another -o")
            strange = [
                e.name for e in os.scandir(folder) if e.is_dir() or not self.own.fullmatch(e.name)
            ]
            if strange:
                raise TaskError(
                    f"{str(folder)!r} holds {min(strange)!r}, which is no result of this command,"
                    " so it is not replaced",
                    "choose another -o",
                )
        for name in names:
            for parent in list(name.parents)[:-1]:
                if (self.root / parent).exists() and not (self.root / parent).is_dir():
                    raise TaskError(f"{str(self.root / parent)!r} is a file", "choose another -o")

    def write(self, name: PurePath, files: Mapping[str, bytes]) -> Path:
        """Write all files of one result and give its folder. May run in several threads at once.

        They go to a hidden folder beside it, which then takes its name. Files are not synced one by
        one, which would cost more than all the rest: what is whole after a kill need not be after a
        power cut.
        """
        with self.writing(name) as partial:
            for file, content in files.items():
                (partial / file).write_bytes(content)
        return self.root / name

    @contextmanager
    def writing(self, name: PurePath) -> Iterator[Path]:
        """Yield a hidden folder for the files of one result; at the end it takes its name."""
        folder = self.root / name
        partial = hidden_folder(folder, "partial")
        folder.parent.mkdir(parents=True, exist_ok=True)
        replaced = hidden_folder(folder, "replaced")
        # Of a run that was killed
        shutil.rmtree(partial, ignore_errors=True)
        if replaced.is_dir():
            if folder.exists():
                shutil.rmtree(replaced, ignore_errors=True)
            else:
                replaced.rename(folder)
        try:
            partial.mkdir()
            yield partial
            if folder.exists():
                folder.rename(replaced)
                try:
                    partial.rename(folder)
                except BaseException:
                    replaced.rename(folder)
                    raise
                shutil.rmtree(replaced, ignore_errors=True)
            else:
                partial.rename(folder)
                self._new.append(folder)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            self._remove_empty(folder.parent)
            raise

    def discard(self) -> None:
        """Remove the folders that were written and did not exist before; then those left empty."""
        for folder in self._new:
            shutil.rmtree(folder, ignore_errors=True)
            self._remove_empty(folder.parent)
        if self.root.exists():
            self._remove_empty(self.root)
        self._new.clear()

    def _remove_empty(self, folder: Path) -> None:
        while folder != self.root or not self._root_existed:
            try:
                folder.rmdir()
            except OSError:  # not empty, or gone
                return
            if folder == self.root:
                return
            folder = folder.parent
