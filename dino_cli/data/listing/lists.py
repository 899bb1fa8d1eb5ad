"""Lists of pictures: `.txt` files and stdin, separated by line ends or by NUL bytes."""

import codecs
import io
import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path, PurePath
from typing import TextIO

from dino_cli.data.listing.image_list import ImageFile
from dino_cli.errors import TaskError

__all__ = ["read_list", "read_stdin"]


def read_list(path: Path, *, null: bool) -> list[ImageFile]:
    """What a list names, relative to its folder. Raises OSError, `TaskError` for an empty one."""
    name = f"the list {str(path)!r}"
    if null:
        return _files([[entry] for entry in _entries(path.read_bytes())], path.parent, name)
    # Names on disk need not be UTF-8; surrogates carry their bytes through.
    with path.open(encoding="utf-8-sig", errors="surrogateescape") as lines:
        return _files(_rows(lines, name), path.parent, name)


def read_stdin(stdin: TextIO, *, null: bool) -> list[ImageFile]:
    """What a list on stdin names, relative to the working folder. Raises as `read_list`."""
    name = "the list on stdin"
    if null:
        raw = getattr(stdin, "buffer", None)  # text would lose carriage returns
        content = raw.read() if raw is not None else os.fsencode(stdin.read())
        return _files([[entry] for entry in _entries(content)], Path(), name)
    if isinstance(stdin, io.TextIOWrapper):
        with suppress(OSError):  # some of it has been read
            stdin.reconfigure(errors="surrogateescape")
    return _files(_rows(_without_mark(stdin), name), Path(), name)


def _without_mark(lines: Iterable[str]) -> Iterator[str]:
    """The lines without the mark of UTF-8 that programs of Windows begin a file with.

    A stream that is decoded as ASCII has it as three surrogates.
    """
    for number, line in enumerate(lines):
        if number == 0:
            with suppress(UnicodeError):
                raw = line.encode("utf-8", "surrogateescape").removeprefix(codecs.BOM_UTF8)
                line = raw.decode("utf-8", "surrogateescape")
        yield line


def _entries(content: bytes) -> list[str]:
    """Names that end in NUL bytes, as `find -print0` writes them; any other byte may be in one."""
    content = content.removeprefix(codecs.BOM_UTF8)
    return [os.fsdecode(entry) for entry in content.split(b"\0") if entry]


def _rows(lines: Iterable[str], name: str) -> list[list[str]]:
    """Path, and label where the line has one, of each line."""
    rows = [line.rstrip("\r\n").split("\t", 1) for line in lines if line.strip()]
    if any("\0" in field for row in rows for field in row):
        raise TaskError(
            f"{name} holds NUL bytes, which no path has",
            "write one path per line, or say --null when they separate the paths",
        )
    return rows


def _files(rows: list[list[str]], base: Path, name: str) -> list[ImageFile]:
    if not rows:
        raise TaskError(f"{name} is empty", "write one path per line")
    paths = [base / row[0] for row in rows]
    if any(len(row) > 1 for row in rows):
        labels = [row[1].strip() if len(row) > 1 else "" for row in rows]
    elif len({path.parent for path in paths}) > 1:
        labels = [path.parent.name for path in paths]
    else:
        labels = [""] * len(paths)
    written = [PurePath(row[0]) for row in rows]
    if any(path.is_absolute() or ".." in path.parts for path in written):
        # Such paths cannot be mirrored as they stand: mirror what lies below their common folder.
        whole = [os.path.abspath(path) for path in paths]
        common = os.path.commonpath([os.path.dirname(path) for path in whole])
        written = [PurePath(os.path.relpath(path, common)) for path in whole]
    return [ImageFile(*row) for row in zip(paths, labels, written, strict=True)]
