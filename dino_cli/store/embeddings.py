"""Feature files: `feats.npy` (N, D) with `feats.csv` (path, label) and `feats.json` beside it."""

import csv
import json
import os
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dino_cli.errors import TaskError
from dino_cli.store.atomic import atomic_write
from dino_cli.store.tables import csv_table, skipped_path, told

__all__ = [
    "Embeddings",
    "EmbeddingsWriter",
    "FeatureRows",
    "embeddings_paths",
    "read_embeddings",
    "writing",
]

FORMAT = 1
HEADER_BYTES = 128


class FeatureRows:
    """The (N, D) features of a .npy file; a slice of rows maps only that part of the file.

    The pages of a map of the whole file would count as this process's memory once they were read.
    """

    def __init__(self, path: Path, whole: "np.memmap[Any, Any]") -> None:
        self.shape: tuple[int, ...] = whole.shape
        self._path, self._dtype, self._offset = path, whole.dtype, whole.offset
        self._row_bytes = whole.shape[1] * whole.itemsize

    def __getitem__(self, rows: slice, /) -> NDArray[Any]:
        start, stop, _ = rows.indices(self.shape[0])
        shape = (max(stop - start, 0), *self.shape[1:])
        offset = self._offset + start * self._row_bytes
        return np.memmap(self._path, self._dtype, "r", offset, shape)


@dataclass(frozen=True)
class Embeddings:
    """A feature file: N rows of features, N paths, N labels ("" where unknown), its .json."""

    path: Path
    features: FeatureRows
    paths: list[str]
    labels: list[str]
    metadata: Mapping[str, Any]


def embeddings_paths(output: Path) -> tuple[Path, Path, Path]:
    """The three files of one export: .npy, .csv, .json."""
    return output, output.with_suffix(".csv"), output.with_suffix(".json")


def read_embeddings(path: Path) -> Embeddings:
    """Open what `dino embed` wrote. Raises `TaskError` when a part is missing or does not fit."""
    vectors, table, facts = embeddings_paths(path)
    again = "make it with `dino embed`"
    for part in (vectors, table, facts):
        if not part.is_file():
            of = "" if part == path else f", a part of {str(path)!r},"
            raise TaskError(f"{str(part)!r}{of} does not exist", again)
    try:
        features = np.load(vectors, mmap_mode="r", allow_pickle=False)
    except (ValueError, OSError, EOFError):
        raise TaskError(f"{str(path)!r} is not a .npy file of features", again) from None
    try:
        metadata = json.loads(facts.read_text(encoding="utf-8"))
        with table.open(encoding="utf-8", errors="surrogateescape", newline="") as file:
            rows = list(csv.reader(file))
        ok = metadata["format"] == FORMAT and rows[0][:2] == ["path", "label"]
        paths, labels = [row[0] for row in rows[1:]], [row[1] for row in rows[1:]]
    except (OSError, ValueError, KeyError, TypeError, IndexError, csv.Error):
        ok = False
    if not ok:
        raise TaskError(f"the .csv or .json beside {str(path)!r} was not made by `dino`", again)
    if features.ndim != 2 or features.dtype.kind != "f" or not features.flags.c_contiguous:
        raise TaskError(f"{str(path)!r} holds {features.dtype} {features.shape}", again)
    if len(paths) != len(features):
        raise TaskError(
            f"{str(path)!r} has {len(features)} rows, but {str(table)!r} has {len(paths)}",
            f"the files are of different runs; {again}",
        )
    return Embeddings(path, FeatureRows(vectors, features), paths, labels, metadata)


class EmbeddingsWriter:
    """Rows go to disk as they come: memory does not grow with their number.

    The place for all rows is reserved with the first ones, so that a disk that is too small ends
    the work at its start, not after hours.
    """

    def __init__(
        self,
        output: Path,
        vectors: Path,
        write_row: Callable[[Sequence[object]], None],
        capacity: int,
    ) -> None:
        self._output, self._vectors = output, vectors
        self._write_row, self._capacity = write_row, capacity
        self.count, self.dim = 0, 0
        self.classes: set[str] = set()

    def append(self, features: NDArray[np.float32], rows: Sequence[tuple[str, str]]) -> None:
        """Add features (B, D) and their B pairs of path (POSIX) and label; B is not 0."""
        with told(self._output):
            if not self.count:
                self.dim = features.shape[1]
                self._reserve(HEADER_BYTES + 4 * self._capacity * self.dim)
            # A map of these rows alone: the pages of a map of the whole file count as our memory.
            offset = HEADER_BYTES + 4 * self.count * self.dim
            window = np.memmap(self._vectors, np.float32, "r+", offset, features.shape)
            window[:] = features
            for row in rows:
                self._write_row(row)
        self.classes.update(label for _, label in rows if label)
        self.count += len(features)

    def close(self) -> None:
        """Write the header for the rows that came, and cut off the place for those that did not."""
        with self._vectors.open("r+b") as file:
            file.write(_npy_header(self.count, self.dim))
            file.truncate(HEADER_BYTES + 4 * self.count * self.dim)

    def _reserve(self, size: int) -> None:
        with self._vectors.open("r+b") as file:
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file.fileno(), 0, size)
            else:
                file.truncate(size)


@contextmanager
def writing(
    output: Path, capacity: int, metadata: Callable[[EmbeddingsWriter], Mapping[str, Any]]
) -> Iterator[EmbeddingsWriter]:
    """Write up to `capacity` rows; the three files appear together when the block succeeds.

    `metadata` is asked at the end for the content of the .json. On an error nothing new is left.
    """
    vectors, table, facts = embeddings_paths(output)
    new = [p for p in (vectors, table, facts, skipped_path(output)) if not p.exists()]
    try:
        with ExitStack() as files:
            with told(output):
                npy = files.enter_context(atomic_write(vectors))
                write_row = files.enter_context(csv_table(table, ("path", "label")))
                about = files.enter_context(atomic_write(facts))
            writer = EmbeddingsWriter(output, npy, write_row, capacity)
            yield writer
            with told(output):
                writer.close()
                content = {"format": FORMAT, **metadata(writer)}
                text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
                about.write_text(text, encoding="utf-8", errors="surrogateescape")
                files.close()
    except BaseException:
        for path in new:
            with suppress(OSError):
                path.unlink(missing_ok=True)
        raise


def _npy_header(rows: int, dim: int) -> bytes:
    """Version 1.0 of the .npy format for float32 (rows, dim), always of the same length."""
    text = f"{{'descr': '<f4', 'fortran_order': False, 'shape': ({rows}, {dim}), }}"
    length = HEADER_BYTES - 10
    return (
        b"\x93NUMPY\x01\x00" + struct.pack("<H", length) + text.ljust(length - 1).encode() + b"\n"
    )
