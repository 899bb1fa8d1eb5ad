"""Features as a table that Embedding Atlas, FiftyOne and any data frame library open.

Columns: `path` and `label`, strings; with videos `frame`, int32, and `time`, float64, in seconds;
`vector`, fixed_size_list<float32>[D], and a column named after each further kind; with thumbnails
`image`, struct<bytes: binary, path: string> of JPEG; with a projection `x` and `y`, float32, and
`neighbors`, struct<ids: list<int64>, distances: list<double>>. What the .json of other formats says
lies in the file's own metadata, under `dino`, with `escaped`: the rows whose path or label is no
UTF-8 and was written by `escape`.
"""

import json
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dino_cli.errors import TaskError
from dino_cli.store.embeddings.facts import are_facts, are_names
from dino_cli.store.embeddings.formats import FeatureExport, frame_and_time, is_utf8

__all__ = [
    "GROUP",
    "Projection",
    "VectorColumn",
    "escape",
    "parquet_projection",
    "parquet_thumbnails",
    "projection_columns",
    "projection_fields",
    "read_parquet",
    "require_pyarrow",
    "write_parquet",
]

GROUP = 1024  # rows of a row group; fixed, so that the same rows make the same bytes
KEY = b"dino"


@dataclass(frozen=True)
class Projection:
    """Places on a plane, float32 (N, 2), and for each row its neighbours (N, K), nearest first:
    rows, int64, and their cosine distances, float32."""

    places: NDArray[np.float32]
    neighbors: NDArray[np.int64]
    distances: NDArray[np.float32]


def require_pyarrow() -> Any:
    """The module, or a `TaskError` that says how to get it."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise TaskError(
            ".parquet needs pyarrow, which is not installed", "pip install 'dino-cli[parquet]'"
        ) from None
    return pyarrow


def _opened(path: Path) -> Any:
    """pyarrow's own reader; it takes names that are no UTF-8 as bytes only."""
    pa = require_pyarrow()
    return pa.parquet.ParquetFile(pa.OSFile(os.fsencode(path)))


def write_parquet(
    path: Path, exported: FeatureExport, facts: Mapping[str, Any], projected: Projection | None
) -> None:
    """Write all rows; those of one row group are in memory at a time."""
    pa = require_pyarrow()
    kinds = list(exported.shapes)
    escaped = _not_utf8(exported)
    if any(escaped.values()):
        facts = {**facts, "escaped": escaped}
    fields = [pa.field("path", pa.string()), pa.field("label", pa.string())]
    if facts.get("videos"):
        fields += [pa.field("frame", pa.int32()), pa.field("time", pa.float64())]
    for kind in kinds:
        name = "vector" if kind == kinds[0] else kind
        fields.append(pa.field(name, pa.list_(pa.float32(), exported.shapes[kind][0][0])))
    if facts.get("thumbnails"):
        image = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
        fields.append(pa.field("image", image))
    if projected is not None:
        fields += projection_fields(pa)
    schema = pa.schema(fields, metadata={KEY: json.dumps(facts)})
    with (
        path.open("wb") as file,
        pa.parquet.ParquetWriter(file, schema, compression="zstd") as writer,
    ):
        groups = zip(*(_grouped(exported.arrays(kind)) for kind in kinds), strict=True)
        rows, thumbnails = exported.rows(), exported.thumbnails()
        start = 0
        for arrays in groups:
            count = len(arrays[0])
            those = [next(rows) for _ in range(count)]
            paths = [escape(row.path) for row in those]
            columns = [pa.array(paths), pa.array([escape(row.label) for row in those])]
            if facts.get("videos"):
                frames = [frame_and_time(row.path, facts) or (None, None) for row in those]
                numbers, times = zip(*frames, strict=True)
                columns += [pa.array(numbers, pa.int32()), pa.array(times, pa.float64())]
            for kind, array in zip(kinds, arrays, strict=True):
                flat = pa.array(np.ascontiguousarray(array).reshape(-1))
                width = exported.shapes[kind][0][0]
                columns.append(pa.FixedSizeListArray.from_arrays(flat, width))
            if facts.get("thumbnails"):
                pictures = [{"bytes": next(thumbnails), "path": Path(name).name} for name in paths]
                columns.append(pa.array(pictures, schema.field("image").type))
            if projected is not None:
                columns += projection_columns(pa, projected, start, count)
            batch = pa.RecordBatch.from_arrays(columns, schema=schema)
            writer.write_batch(batch, row_group_size=GROUP)
            start += count


def projection_fields(pa: Any) -> list[Any]:
    """Names and types of what a projection adds."""
    lists = [("ids", pa.list_(pa.int64())), ("distances", pa.list_(pa.float64()))]
    named = [("x", pa.float32()), ("y", pa.float32()), ("neighbors", pa.struct(lists))]
    return [pa.field(name, kind) for name, kind in named]


def projection_columns(pa: Any, projected: Projection, start: int, count: int) -> list[Any]:
    """The content of these columns, for `count` rows from `start` on."""
    rows = slice(start, start + count)
    x, y = projected.places[rows, 0], projected.places[rows, 1]
    ids, distances = projected.neighbors[rows], projected.distances[rows].astype(np.float64)
    offsets = np.arange(count + 1, dtype=np.int32) * ids.shape[1]
    lists = [
        pa.ListArray.from_arrays(offsets, pa.array(np.ascontiguousarray(values).reshape(-1)))
        for values in (ids, distances)
    ]
    struct = pa.StructArray.from_arrays(lists, ["ids", "distances"])
    return [pa.array(np.ascontiguousarray(x)), pa.array(np.ascontiguousarray(y)), struct]


def _grouped(arrays: Iterator[NDArray[Any]]) -> Iterator[NDArray[Any]]:
    """The same rows in groups of `GROUP`."""
    waiting: list[NDArray[Any]] = []
    have = 0
    for array in arrays:
        waiting.append(array)
        have += len(array)
        while have >= GROUP:
            joined = np.concatenate(waiting)
            yield joined[:GROUP]
            waiting, have = [joined[GROUP:]], have - GROUP
    if have:
        yield np.concatenate(waiting)


def escape(text: str) -> str:
    """The text as Arrow takes it, which is UTF-8; in any other, a byte that is none becomes \\xe9
    and a backslash two. `_unescaped` undoes that."""
    if is_utf8(text):
        return text
    content = text.replace("\\", "\\\\").encode("utf-8", "surrogateescape")
    return content.decode("utf-8", "backslashreplace")


def _unescaped(text: str) -> str:
    def one(found: re.Match[str]) -> str:
        if found[0] == "\\\\":
            return "\\"
        return bytes([int(found[1], 16)]).decode("utf-8", "surrogateescape")

    return re.sub(r"\\\\|\\x([89a-f][0-9a-f])", one, text)


def _not_utf8(exported: FeatureExport) -> dict[str, list[int]]:
    """The rows whose path and whose label `escape` changes."""
    found: dict[str, list[int]] = {"path": [], "label": []}
    for number, row in enumerate(exported.rows()):
        if not is_utf8(row.path):
            found["path"].append(number)
        if not is_utf8(row.label):
            found["label"].append(number)
    return found


@dataclass(frozen=True)
class ParquetFile:
    """What a .parquet of ours holds; the vectors are read when asked for."""

    columns: "dict[str, VectorColumn]"
    paths: list[str]
    labels: list[str]
    metadata: dict[str, Any]


def read_parquet(path: Path) -> ParquetFile:
    """Open a .parquet. Raises `ValueError` or `KeyError` when `dino embed` did not write it."""
    pa = require_pyarrow()
    try:
        file = _opened(path)
        metadata: dict[str, Any] = json.loads((file.schema_arrow.metadata or {})[KEY])
        if not are_facts(metadata):
            raise ValueError("not what `dino embed` writes there")
        table = file.read(["path", "label"])
        kinds = list(metadata["arrays"])
        columns = {k: VectorColumn(path, "vector" if k == kinds[0] else k) for k in kinds}
    except pa.ArrowException as error:
        raise ValueError(str(error)) from None
    names: dict[str, list[str]] = {key: table.column(key).to_pylist() for key in ("path", "label")}
    for key, those in metadata.pop("escaped", {}).items():
        for row in those:
            names[key][row] = _unescaped(names[key][row])
    if not all(map(are_names, names.values())):
        raise ValueError("paths or labels that are no texts")
    return ParquetFile(columns, names["path"], names["label"], metadata)


class VectorColumn:
    """A column of vectors, (N, D) float32, read by slices; one row group is kept in memory."""

    def __init__(self, path: Path, name: str) -> None:
        self._file = _opened(path)
        self._path, self._name = path, name
        meta = self._file.metadata
        counts = [meta.row_group(i).num_rows for i in range(meta.num_row_groups)]
        self._starts = np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])
        width = self._file.schema_arrow.field(name).type.list_size
        self.shape: tuple[int, ...] = (int(meta.num_rows), int(width))
        self._kept: tuple[int, NDArray[np.float32]] | None = None

    def __getitem__(self, rows: slice, /) -> NDArray[Any]:
        start, stop, _ = rows.indices(self.shape[0])
        pieces = [np.empty((0, self.shape[1]), np.float32)]
        group = int(np.searchsorted(self._starts, start, "right")) - 1
        while start < stop:
            first = int(self._starts[group])
            whole = self._group(group)
            pieces.append(whole[start - first : stop - first])
            start, group = first + len(whole), group + 1
        return np.concatenate(pieces)

    def _group(self, number: int) -> NDArray[np.float32]:
        if self._kept is None or self._kept[0] != number:
            try:
                column = self._file.read_row_group(number, [self._name]).column(0).combine_chunks()
                flat = np.asarray(column.flatten().to_numpy(zero_copy_only=False), np.float32)
                self._kept = number, flat.reshape(-1, self.shape[1])
            except Exception:  # damaged pages end in any exception whatever
                raise TaskError(
                    f"{str(self._path)!r} is damaged", "make it again with `dino embed`"
                ) from None
        return self._kept[1]


def parquet_thumbnails(path: Path) -> Iterator[bytes]:
    """The pictures of the column `image`, one after another."""
    file = _opened(path)
    for batch in file.iter_batches(GROUP, columns=["image"]):
        for picture in batch.column(0):
            yield picture["bytes"].as_py()


def parquet_projection(path: Path) -> Projection | None:
    """Places and neighbours that `--project` put there; None where it did not.

    Raises `TaskError` when the columns are damaged.
    """
    file = _opened(path)
    if not {"x", "y", "neighbors"} <= set(file.schema_arrow.names):
        return None
    try:
        table = file.read(["x", "y", "neighbors"])
        places = [np.asarray(table.column(name).to_numpy(), np.float32) for name in ("x", "y")]
        column = table.column("neighbors").combine_chunks()
        rows, distances = (
            np.asarray(column.field(name).flatten().to_numpy(zero_copy_only=False))
            for name in ("ids", "distances")
        )
        count = len(places[0])
        if count and np.isfinite(places).all():
            return Projection(
                np.stack(places, axis=1),
                rows.reshape(count, -1).astype(np.int64),
                distances.reshape(count, -1).astype(np.float32),
            )
    except Exception:  # as above
        pass
    raise TaskError(f"{str(path)!r} is damaged", "make it again with `dino embed`")
