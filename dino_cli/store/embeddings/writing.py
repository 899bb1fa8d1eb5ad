"""Exports written, in every format.

From rows that are read one block after another, so memory does not grow with their number, and the
same rows make the same bytes.
"""

import json
import os
import zipfile
from collections.abc import Callable, Iterator, Mapping
from operator import attrgetter
from pathlib import Path
from typing import IO, Any, TextIO

import numpy as np

from dino_cli.config.values import json_text
from dino_cli.store.embeddings.blocks import Row
from dino_cli.store.embeddings.facts import FORMAT
from dino_cli.store.embeddings.formats import (
    FeatureExport,
    file_of_kind,
    frame_and_time,
    frame_columns,
)
from dino_cli.store.embeddings.parquet import Projection, write_parquet
from dino_cli.store.embeddings.sources import write_sources
from dino_cli.store.writing.tables import row_writer
from dino_cli.store.writing.targets import explain_errors
from dino_cli.store.writing.tensors import safetensors_header

__all__ = ["write_export"]

SAFETENSORS = {"<f4": "F32", "<f2": "F16"}
RUN = 4096  # texts that are written at a time


def write_export(
    folder: Path,
    name: str,
    exported: FeatureExport,
    facts: Mapping[str, Any],
    *,
    projected: Projection | None = None,
) -> None:
    """Write the files of an export called `name` into an empty folder.

    facts: for the .json. projected: what `--project` adds to a .parquet.
    """
    output = folder / name
    content = {"format": FORMAT, **facts}
    with explain_errors(output):
        if output.suffix == ".parquet":
            write_parquet(output, exported, content, projected)
        else:
            _WRITERS[output.suffix](output, exported, content)
        if output.suffix in (".npy", ".safetensors"):
            _write_table(output.with_suffix(".csv"), exported, content)
        if output.suffix not in (".npz", ".parquet"):
            output.with_suffix(".json").write_text(json_text(content) + "\n", encoding="utf-8")
        write_sources(output, exported.rows())


def _write_npy(output: Path, exported: FeatureExport, _: Mapping[str, Any]) -> None:
    kinds = list(exported.shapes)
    for kind in kinds:
        with file_of_kind(output, kind, kinds).open("wb") as file:
            _write_array(file, exported, kind)


def _write_npz(output: Path, exported: FeatureExport, facts: Mapping[str, Any]) -> None:
    """Stored, not deflated: so that rows can be read from the middle."""
    with zipfile.ZipFile(output, "w", zipfile.ZIP_STORED) as archive:

        def member(name: str) -> IO[bytes]:
            # A member of a fixed date: the same rows make the same bytes.
            return archive.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True)

        for kind in exported.shapes:
            with member(kind) as file:
                _write_array(file, exported, kind)
        for name, get in (("paths", attrgetter("path")), ("labels", attrgetter("label"))):
            longest = max((len(get(row)) for row in exported.rows()), default=1) or 1
            with member(name) as file:
                _write_header(file, (exported.count,), f"<U{longest}")
                for texts in _runs(get(row) for row in exported.rows()):
                    file.write(np.array(texts, f"<U{longest}").tobytes())
        with member("metadata") as file:
            text = np.array(json.dumps(facts, ensure_ascii=False))
            np.lib.format.write_array(file, text, allow_pickle=False)


def _write_safetensors(output: Path, exported: FeatureExport, facts: Mapping[str, Any]) -> None:
    """The format's eight bytes, JSON and tensors; the library would need all rows in memory."""
    order = sorted(exported.shapes, key=lambda kind: -np.dtype(exported.shapes[kind][1]).itemsize)
    about = {}
    for kind in order:
        shape, dtype = exported.shapes[kind]
        size = exported.count * int(np.prod(shape)) * np.dtype(dtype).itemsize
        about[kind] = SAFETENSORS[dtype], (exported.count, *shape), size
    header = safetensors_header(about, {"dino": json.dumps(facts)})
    with output.open("wb") as file:
        _reserve(file, len(header) + sum(size for _, _, size in about.values()))
        file.write(header)
        for kind in order:
            for array in exported.arrays(kind):
                file.write(np.ascontiguousarray(array).tobytes())


def _write_csv(output: Path, exported: FeatureExport, facts: Mapping[str, Any]) -> None:
    header, formats = ["path", "label", *frame_columns(facts)], {}
    for kind, (shape, _dtype) in exported.shapes.items():
        header += [f"{kind}_{i}" for i in range(shape[0])]
        formats[kind] = ",".join(["%.9g"] * shape[0])  # nine digits give float32 back exactly
    with _text(output) as file:
        write_row = row_writer(file, header)
        rows = exported.rows()
        for arrays in zip(*(exported.arrays(kind) for kind in exported.shapes), strict=True):
            for i in range(len(arrays[0])):
                row, numbers = next(rows), []
                for kind, array in zip(formats, arrays, strict=True):
                    numbers += (formats[kind] % tuple(array[i].tolist())).split(",")
                write_row([row.path, row.label, *_frame_cells(row, facts), *numbers])


def _frame_cells(row: Row, facts: Mapping[str, Any]) -> list[object]:
    if not frame_columns(facts):
        return []
    return list(frame_and_time(row.path, facts) or ("", ""))


_WRITERS: dict[str, Callable[[Path, FeatureExport, Mapping[str, Any]], None]] = {
    ".npy": _write_npy,
    ".npz": _write_npz,
    ".safetensors": _write_safetensors,
    ".csv": _write_csv,
}


def _write_table(path: Path, exported: FeatureExport, facts: Mapping[str, Any]) -> None:
    with _text(path) as file:
        write_row = row_writer(file, ["path", "label", *frame_columns(facts)])
        for row in exported.rows():
            write_row([row.path, row.label, *_frame_cells(row, facts)])


def _write_array(file: IO[bytes], exported: FeatureExport, kind: str) -> None:
    shape, dtype = exported.shapes[kind]
    _reserve(file, exported.count * int(np.prod(shape)) * np.dtype(dtype).itemsize)
    _write_header(file, (exported.count, *shape), dtype)
    for array in exported.arrays(kind):
        file.write(np.ascontiguousarray(array).tobytes())


def _write_header(file: IO[bytes], shape: tuple[int, ...], dtype: str) -> None:
    header = {"descr": dtype, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, header)


def _reserve(file: IO[bytes], size: int) -> None:
    """A disk that is too small says so before anything is written."""
    try:
        descriptor = file.fileno()
    except (OSError, AttributeError):  # a member of an archive
        return
    if hasattr(os, "posix_fallocate") and size:
        os.posix_fallocate(descriptor, 0, size)


def _text(path: Path) -> TextIO:
    return path.open("w", encoding="utf-8", errors="surrogateescape", newline="")


def _runs(values: Iterator[str]) -> Iterator[list[str]]:
    run: list[str] = []
    for value in values:
        run.append(value)
        if len(run) == RUN:
            yield run
            run = []
    if run:
        yield run
