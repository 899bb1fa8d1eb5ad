"""Lists of pictures: `.txt` files and stdin, separated by line ends or by NUL bytes."""

import codecs
import io
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path, PurePath
from typing import NamedTuple, TextIO

from dino_cli.data.listing.image_list import Row
from dino_cli.errors import TaskError

__all__ = ["read_list", "read_stdin"]


class _Place(NamedTuple):
    """A folder that a list names: its path, its place below the argument, the label of its own."""

    path: str
    relative: str
    label: str


def read_list(path: Path, *, null: bool) -> Iterator[Row]:
    """What a list names, relative to its folder. Raises OSError, `TaskError` for an empty one."""
    return _List(path.read_bytes(), f"the list {str(path)!r}", null).rows(path.parent)


def read_stdin(stdin: TextIO, *, null: bool) -> Iterator[Row]:
    """What a list on stdin names, relative to the working folder. Raises as `read_list`."""
    raw = getattr(stdin, "buffer", None) if null else None  # text would lose carriage returns
    if isinstance(stdin, io.TextIOWrapper):
        with suppress(OSError):  # some of it has been read
            stdin.reconfigure(errors="surrogateescape")
    content = raw.read() if raw is not None else os.fsencode(stdin.read())
    return _List(content, "the list on stdin", null).rows(Path())


class _List:
    """The content of a list, read twice rather than kept in pieces: lists may be long."""

    def __init__(self, content: bytes, name: str, null: bool) -> None:
        # Programs of Windows begin a file with a mark.
        self.content, self.name = content.removeprefix(codecs.BOM_UTF8), name
        self.entries = self._ended_by_nul if null else self._lines

    def rows(self, base: Path) -> Iterator[Row]:
        """Its pictures, in turn. Paths are taken relative to `base`."""
        found: dict[str, Path] = {}  # folders as they are written
        labelled = False
        for path, label in self.entries():
            labelled = labelled or label is not None
            folder, _ = _split(path)
            if folder not in found:
                found[folder] = base / folder
        if not found:
            raise TaskError(f"{self.name} is empty", "write one path per line")
        places = _places(found)
        for path, label in self.entries():
            folder, file = _split(path)
            place = places[folder]
            own = (label or "").strip() if labelled else place.label
            yield place.path, place.relative, file, own

    def _ended_by_nul(self) -> Iterator[tuple[str, None]]:
        """As `find -print0` writes them; any other byte may be in a name."""
        start, size = 0, len(self.content)
        while start < size:
            end = self.content.find(b"\0", start)
            end = end if end >= 0 else size
            if end > start:
                yield os.fsdecode(self.content[start:end]), None
            start = end + 1

    def _lines(self) -> Iterator[tuple[str, str | None]]:
        """Path, and label where the line has one."""
        # Names on disk need not be UTF-8; surrogates carry their bytes through.
        lines = io.TextIOWrapper(
            io.BytesIO(self.content), encoding="utf-8", errors="surrogateescape"
        )
        for line in lines:
            if "\0" in line:
                raise TaskError(
                    f"{self.name} holds NUL bytes, which no path has",
                    "write one path per line, or say --null when they separate the paths",
                )
            if line.strip():
                path, tab, label = line.rstrip("\r\n").partition("\t")
                yield path, label if tab else None


def _split(path: str) -> tuple[str, str]:
    """Folder and name."""
    folder, name = os.path.split(path)
    return (folder, name) if name not in ("", ".") else os.path.split(str(PurePath(path)))


def _places(found: dict[str, Path]) -> dict[str, _Place]:
    several = len(set(found.values())) > 1
    relatives = {folder: str(PurePath(folder)) for folder in found}
    if any(os.path.isabs(folder) or ".." in PurePath(folder).parts for folder in found):
        # Such paths cannot be mirrored as they stand: mirror what lies below their common folder.
        whole = {folder: os.path.abspath(path) for folder, path in found.items()}
        common = os.path.commonpath(whole.values())
        relatives = {folder: os.path.relpath(path, common) for folder, path in whole.items()}
    return {
        folder: _Place(
            str(path),
            "" if relatives[folder] == "." else relatives[folder],
            path.name if several else "",
        )
        for folder, path in found.items()
    }
