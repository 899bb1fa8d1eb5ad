"""CSV files that appear whole or not at all."""

import csv
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from dino_cli.errors import TaskError
from dino_cli.store.writing.atomic import atomic_write

__all__ = ["csv_table", "read_skipped", "row_writer", "skipped_path", "write_skipped"]

PATHS = re.compile("path|duplicate|original|query|neighbor[0-9]+")  # columns that hold paths
FORMULAS = ("=", "+", "-", "@", "\t", "\r")  # what begins one, in some spreadsheet


@contextmanager
def csv_table(path: Path, header: Sequence[str]) -> Iterator[Callable[[Sequence[object]], None]]:
    """Yield a function that writes one row; the file takes its name when the block succeeds.

    Names on disk that are no UTF-8 keep their bytes.
    """
    with (
        atomic_write(path) as temporary,
        temporary.open("w", encoding="utf-8", errors="surrogateescape", newline="") as file,
    ):
        yield row_writer(file, header)


def row_writer(file: TextIO, header: Sequence[str]) -> Callable[[Sequence[object]], None]:
    """Write the header, and give what writes one row.

    A carriage return in a name is quoted, which Python's writer leaves bare. In columns of paths a
    relative one that a spreadsheet would take for a formula (`=cmd…`) begins with `./`.
    """
    plain = csv.writer(file, lineterminator="\n")
    quoting = csv.writer(file, lineterminator="\n", quoting=csv.QUOTE_ALL)
    paths = [i for i, name in enumerate(header) if PATHS.fullmatch(name)]

    def write(row: Sequence[object]) -> None:
        cells = list(row)
        for i in paths:
            if str(cells[i]).startswith(FORMULAS):
                cells[i] = f"./{cells[i]}"
        returns = any(isinstance(cell, str) and "\r" in cell for cell in cells)
        (quoting if returns else plain).writerow(cells)

    plain.writerow(header)
    return write


def skipped_path(output: Path) -> Path:
    """feats.npy → feats.skipped.csv."""
    return output.with_suffix(".skipped.csv")


def read_skipped(path: Path) -> dict[str, str]:
    """The reasons of a list of unreadable files, by path; none where there is no list.

    Raises `TaskError` for a file that is no such list.
    """
    try:
        with path.open(newline="", encoding="utf-8", errors="surrogateescape") as lines:
            return {row["path"]: row["reason"] for row in csv.DictReader(lines, strict=True)}
    except FileNotFoundError:
        return {}
    except (KeyError, csv.Error):
        raise TaskError(f"{str(path)!r} is no list of skipped files", "move it away") from None


def write_skipped(output: Path, skipped: Iterable[tuple[str, str]]) -> Path | None:
    """The list (path, reason) of unreadable files beside an output; none when there are none.

    A list that an earlier run left there is removed. Returns where it is.
    """
    path, rows = skipped_path(output), list(skipped)
    if not rows:
        path.unlink(missing_ok=True)
        return None
    with csv_table(path, ("path", "reason")) as write:
        for row in rows:
            write(row)
    return path
