"""Feature files: `feats.npy` (N, D) with `feats.csv` (path, label) and `feats.json` beside it, and
the same content as `.npz`, `.safetensors`, `.parquet` or `.csv`."""

import csv
import json
import math
import os
import struct
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dino_cli.core.evaluation.neighbors import Rows
from dino_cli.errors import DinoError, TaskError
from dino_cli.store.embeddings.facts import are_facts, are_names
from dino_cli.store.embeddings.formats import SUFFIXES, file_of_kind
from dino_cli.store.embeddings.parquet import read_parquet

__all__ = [
    "Embeddings",
    "FeatureRows",
    "embeddings_paths",
    "is_feature_file",
    "open_export",
    "read_embeddings",
    "table_beside",
]

AGAIN = "make it with `dino embed`"


class FeatureRows:
    """Features in the middle of a file; a slice of rows maps only that part of it.

    The pages of a map of the whole file would count as this process's memory once they were read.
    """

    def __init__(self, path: Path, whole: "np.memmap[Any, Any]") -> None:
        self.shape: tuple[int, ...] = whole.shape
        self._path, self._dtype, self._offset = path, whole.dtype, whole.offset
        self._row_bytes = math.prod(whole.shape[1:]) * whole.itemsize

    def __getitem__(self, rows: slice, /) -> NDArray[Any]:
        start, stop, _ = rows.indices(self.shape[0])
        shape = (max(stop - start, 0), *self.shape[1:])
        if not shape[0]:
            return np.empty(shape, self._dtype)
        offset = self._offset + start * self._row_bytes
        return np.memmap(self._path, self._dtype, "r", offset, shape)


@dataclass(frozen=True)
class Embeddings:
    """A feature file: N rows of features, N paths, N labels ("" where unknown), its .json.

    arrays: every kind of features in it, the main one, `features`, included.
    """

    path: Path
    features: Rows
    paths: list[str]
    labels: list[str]
    metadata: Mapping[str, Any]
    arrays: Mapping[str, Rows] = field(default_factory=dict)


def is_feature_file(name: str) -> bool:
    """Whether `dino embed` could have written a file of this name, and no list of pictures is."""
    return Path(name).suffix in SUFFIXES


def embeddings_paths(output: Path) -> tuple[Path, Path, Path]:
    """The three files of an export as .npy: vectors, table and facts."""
    return output, output.with_suffix(".csv"), output.with_suffix(".json")


def table_beside(path: Path) -> Path:
    """feats.csv of feats.npy, and of feats.mean.npy where that is a part of it."""
    return _main_file(path)[0].with_suffix(".csv")


def read_embeddings(path: Path) -> Embeddings:
    """Open one vector for each picture, as `dino embed` wrote them in any format.

    Of several kinds the main one, or the first that is no grid; `feats.mean.npy` names one.
    Raises `TaskError` when a part is missing or does not fit, and for patch grids alone.
    """
    main, kind = _main_file(path)
    export = open_export(main)
    if kind in export.arrays:
        export = replace(_of_kind(export, kind), path=path, arrays={kind: export.arrays[kind]})
    elif kind:
        export = open_export(path)
    if len(export.features.shape) == 2:
        return export
    vectors = [name for name, array in export.arrays.items() if len(array.shape) == 2]
    if vectors:
        return _of_kind(export, vectors[0])
    grid = " x ".join(map(str, export.features.shape[1:]))
    raise TaskError(
        f"{str(path)!r} holds a grid of {grid} for each picture", "embed with --features cls"
    )


def _of_kind(export: Embeddings, kind: str) -> Embeddings:
    """The same with another kind of features as the main one."""
    features = export.arrays[kind]
    facts = {**export.metadata, "features": kind, "dim": features.shape[-1]}
    return replace(export, features=features, metadata=facts)


def open_export(path: Path) -> Embeddings:
    """As `read_embeddings`, and grids too."""
    if path.suffix not in _READERS:
        raise TaskError(
            f"{str(path)!r} is no file of features",
            f"give one of `dino embed`: {', '.join(SUFFIXES)}",
        )
    if not path.is_file():
        raise TaskError(f"{str(path)!r} does not exist", AGAIN)
    export = _READERS[path.suffix](path)
    rows = export.features.shape[0]
    if len(export.paths) != rows:
        table = repr(str(path.with_suffix(".csv")))
        raise TaskError(
            f"{str(path)!r} has {rows} rows, but {table} has {len(export.paths)}",
            f"the files are of different runs; {AGAIN}",
        )
    return export


def _read_npy(path: Path) -> Embeddings:
    paths, labels, metadata = _read_beside(path)
    arrays: dict[str, Rows] = {}
    kinds = list(metadata.get("arrays") or {metadata.get("features", "cls"): None})
    for kind in kinds:
        file = file_of_kind(path, kind, kinds)
        try:
            whole = np.load(file, mmap_mode="r", allow_pickle=False)
        except FileNotFoundError:
            raise TaskError(
                f"{str(file)!r}, a part of {str(path)!r}, does not exist", AGAIN
            ) from None
        except Exception:  # a damaged header ends in any exception whatever
            raise TaskError(f"{str(file)!r} is not a .npy file of features", AGAIN) from None
        if not _are_vectors(whole):
            raise TaskError(f"{str(file)!r} holds {whole.dtype} {whole.shape}", AGAIN)
        arrays[kind] = FeatureRows(file, whole)
    return Embeddings(path, arrays[kinds[0]], paths, labels, metadata, arrays)


def _main_file(path: Path) -> tuple[Path, str]:
    """feats.mean.npy holds the kind "mean" of feats.npy, unless it has a table of its own."""
    if not path.suffix:
        return path, ""
    without = path.with_suffix("")
    main, kind = without.with_suffix(path.suffix), without.suffix[1:]
    own = path.suffix != ".npy" or path.with_suffix(".csv").exists()
    if own or not kind or not main.with_suffix(".json").is_file():
        return path, ""
    return main, kind


def _are_vectors(whole: NDArray[Any]) -> bool:
    return (
        whole.ndim >= 2
        and 0 not in whole.shape[1:]
        and whole.dtype.kind == "f"
        and whole.flags.c_contiguous
    )


def _read_beside(path: Path) -> tuple[list[str], list[str], dict[str, Any]]:
    """Paths, labels and facts of the files beside vectors."""
    _, table, facts = embeddings_paths(path)
    for part in (table, facts):
        if not part.is_file():
            raise TaskError(f"{str(part)!r}, a part of {str(path)!r}, does not exist", AGAIN)
    try:
        metadata = json.loads(facts.read_text(encoding="utf-8", errors="surrogateescape"))
        with table.open(encoding="utf-8", errors="surrogateescape", newline="") as file:
            lines = csv.reader(file)
            ok = are_facts(metadata) and next(lines)[:2] == ["path", "label"]
            paths, labels = [], []
            for line in lines:
                paths.append(line[0])
                labels.append(line[1])
    except Exception:  # as above
        ok = False
    if not ok:
        raise TaskError(f"the .csv or .json beside {str(path)!r} was not made by `dino`", AGAIN)
    return paths, labels, metadata


def _read_npz(path: Path) -> Embeddings:
    try:
        with np.load(path, allow_pickle=False) as content:
            if any(one.compress_type != zipfile.ZIP_STORED for one in content.zip.infolist()):
                raise ValueError("deflated: few bytes could become endlessly many")
            metadata = json.loads(str(content["metadata"]))
            paths, labels = _texts(content["paths"]), _texts(content["labels"])
        if not are_facts(metadata) or len(labels) != len(paths):
            raise ValueError("not what was written there")
        members = {kind: _member(path, kind) for kind in metadata["arrays"]}
        if not all(map(_are_vectors, members.values())):
            raise ValueError("no vectors")
        arrays: dict[str, Rows] = {k: FeatureRows(path, m) for k, m in members.items()}
        first = next(iter(arrays.values()))
    except Exception:  # as above
        raise _unlike(path) from None
    return Embeddings(path, first, paths, labels, metadata, arrays)


def _texts(array: NDArray[Any]) -> list[str]:
    # Texts of no characters take no bytes, so that any number of them can be claimed.
    if array.dtype.kind != "U" or array.ndim != 1 or not array.itemsize:
        raise ValueError("no texts")
    texts: list[str] = array.tolist()
    if not are_names(texts):
        raise ValueError("half characters")
    return texts


def _member(path: Path, name: str) -> "np.memmap[Any, Any]":
    """An array of an archive that does not deflate, mapped where it lies."""
    with zipfile.ZipFile(path) as archive, path.open("rb") as file:
        info = archive.getinfo(f"{name}.npy")
        file.seek(info.header_offset + 26)  # of the local header, which ends in name and extras
        file.seek(sum(struct.unpack("<HH", file.read(4))), os.SEEK_CUR)
        np.lib.format.read_magic(file)
        shape, by_columns, dtype = np.lib.format.read_array_header_1_0(file)
        return np.memmap(path, dtype, "r", file.tell(), shape, "F" if by_columns else "C")


def _read_safetensors(path: Path) -> Embeddings:
    from safetensors import safe_open

    paths, labels, metadata = _read_beside(path)
    try:
        with safe_open(path, "np") as checked:  # its own checks of the whole header
            names = set(checked.keys())
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(length))
        arrays: dict[str, Rows] = {}
        for kind in metadata["arrays"]:
            about = header[kind]
            dtype = {"F32": "<f4", "F16": "<f2"}[about["dtype"]]
            offset = 8 + length + about["data_offsets"][0]
            whole = np.memmap(path, dtype, "r", offset, tuple(about["shape"]))
            arrays[kind] = FeatureRows(path, whole)
        if not names >= set(arrays):
            raise KeyError
        first = next(iter(arrays.values()))
    except Exception:  # as above
        raise _unlike(path) from None
    return Embeddings(path, first, paths, labels, metadata, arrays)


def _read_parquet(path: Path) -> Embeddings:
    try:
        file = read_parquet(path)
    except DinoError:
        raise
    except Exception:  # as above
        raise _unlike(path) from None
    arrays: dict[str, Rows] = dict(file.columns)
    first = next(iter(arrays.values()))
    return Embeddings(path, first, file.paths, file.labels, file.metadata, arrays)


def _read_csv(path: Path) -> Embeddings:
    """Text is read into memory whole: the other formats are for many rows."""
    paths, labels, metadata = _read_beside(path)
    try:
        kinds = {kind: int(about["shape"][0]) for kind, about in metadata["arrays"].items()}
        width = sum(kinds.values())
        values = np.empty((len(paths), width), np.float32)
        with path.open(encoding="utf-8", errors="surrogateescape", newline="") as file:
            lines = csv.reader(file)
            next(lines)
            for i, line in enumerate(lines):
                values[i] = np.array(line[len(line) - width :], dtype=np.float32)
        ends = np.cumsum(list(kinds.values()))
        pieces = np.split(values, ends[:-1], axis=1)
        arrays = dict(zip(kinds, map(np.ascontiguousarray, pieces), strict=True))
    except Exception:  # as above
        raise _unlike(path) from None
    return Embeddings(path, next(iter(arrays.values())), paths, labels, metadata, arrays)


_READERS: dict[str, Callable[[Path], Embeddings]] = {
    ".npy": _read_npy,
    ".npz": _read_npz,
    ".safetensors": _read_safetensors,
    ".parquet": _read_parquet,
    ".csv": _read_csv,
}


def _unlike(path: Path) -> TaskError:
    return TaskError(f"{str(path)!r} was not made by `dino embed`, or is damaged", AGAIN)
