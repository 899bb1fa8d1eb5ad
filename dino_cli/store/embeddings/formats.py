"""The formats of exported features: `.npy .npz .safetensors .csv`, and `.parquet` next door.

All are written from rows that are read one block after another, so memory does not grow with their
number, and the same rows make the same bytes.
"""

import json
import os
import re
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import IO, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from dino_cli.config.frame_names import split_frame
from dino_cli.errors import TaskError, UsageError
from dino_cli.store.embeddings.blocks import Row
from dino_cli.store.writing.tables import explain_errors, row_writer

__all__ = [
    "FORMAT",
    "SUFFIXES",
    "TABLES",
    "FeatureExport",
    "export_files",
    "file_of_kind",
    "frame_and_time",
    "frame_columns",
    "is_utf8",
    "read_sources",
    "refuse_grids",
    "sources_path",
    "write_export",
]

FORMAT = 1  # of the .json
DIGEST = re.compile("[0-9a-f]{64}")
SUFFIXES = (".npy", ".npz", ".safetensors", ".parquet", ".csv")
TABLES = frozenset({".parquet", ".csv"})  # hold vectors, but no grids
SAFETENSORS = {"<f4": "F32", "<f2": "F16"}


class FeatureExport(Protocol):
    """Rows on their way into a file. Iterators start anew at each call."""

    @property
    def count(self) -> int: ...
    @property
    def shapes(self) -> Mapping[str, tuple[tuple[int, ...], str]]:
        """Of each kind of features, the main one first: the shape of a row, and the type."""
        ...

    def arrays(self, kind: str) -> Iterator[NDArray[Any]]: ...
    def rows(self) -> Iterator[Row]: ...
    def thumbnails(self) -> Iterator[bytes]: ...


def file_of_kind(output: Path, kind: str, kinds: Sequence[str]) -> Path:
    """feats.npy holds the first kind, feats.patch.npy another one."""
    return output if kind == kinds[0] else output.with_suffix(f".{kind}{output.suffix}")


def sources_path(output: Path) -> Path:
    """feats.npy → feats.npy.sources: the pictures' SHA-256, in the form of `sha256sum`."""
    return output.with_name(output.name + ".sources")


def export_files(output: Path, kinds: Sequence[str]) -> list[Path]:
    """All files that one export leaves, the output first."""
    table, facts = output.with_suffix(".csv"), output.with_suffix(".json")
    beside = {
        ".npy": [*(file_of_kind(output, kind, kinds) for kind in kinds[1:]), table, facts],
        ".safetensors": [table, facts],
        ".csv": [facts],
    }.get(output.suffix, [])
    return [output, *beside, sources_path(output)]


def write_export(
    folder: Path,
    name: str,
    exported: FeatureExport,
    facts: Mapping[str, Any],
    *,
    projected: Any = None,
) -> None:
    """Write the files of an export called `name` into an empty folder.

    facts: for the .json. projected: what `--project` adds to a .parquet, see there.
    """
    output = folder / name
    content = {"format": FORMAT, **facts}
    with explain_errors(output):
        if output.suffix == ".parquet":
            from dino_cli.store.embeddings.parquet import write_parquet

            write_parquet(output, exported, content, projected)
        else:
            _WRITERS[output.suffix](output, exported, content)
        if output.suffix in (".npy", ".safetensors"):
            _write_table(output.with_suffix(".csv"), exported, content)
        if output.suffix not in (".npz", ".parquet"):
            text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
            output.with_suffix(".json").write_text(text, encoding="utf-8", errors="surrogateescape")
        _write_sources(sources_path(output), exported)


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
        for name, get in (("paths", _path), ("labels", _label)):
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
    header: dict[str, Any] = {"__metadata__": {"dino": json.dumps(facts)}}
    start = 0
    order = sorted(exported.shapes, key=lambda kind: -np.dtype(exported.shapes[kind][1]).itemsize)
    for kind in order:
        shape, dtype = exported.shapes[kind]
        end = start + exported.count * int(np.prod(shape)) * np.dtype(dtype).itemsize
        header[kind] = {
            "dtype": SAFETENSORS[dtype],
            "shape": [exported.count, *shape],
            "data_offsets": [start, end],
        }
        start = end
    text = json.dumps(header).encode("ascii")
    text += b" " * (-len(text) % 8)
    with output.open("wb") as file:
        _reserve(file, 8 + len(text) + start)
        file.write(len(text).to_bytes(8, "little") + text)
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


def frame_columns(facts: Mapping[str, Any]) -> list[str]:
    """What tables hold besides, when some rows are frames of videos."""
    return ["frame", "time"] if facts.get("videos") else []


def frame_and_time(path: str, facts: Mapping[str, Any]) -> tuple[int, float] | None:
    """The number of a frame and its time in seconds, by the video's rate; None for a picture."""
    found = split_frame(path)
    rates = facts.get("videos") or {}
    if found is None or not rates.get(found[0]):
        return None
    return found[1], round(found[1] / rates[found[0]], 6)


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


def _write_sources(path: Path, exported: FeatureExport) -> None:
    with _text(path) as file:
        for row in exported.rows():
            name = row.path
            if "\n" in name or "\\" in name:  # as sha256sum escapes
                name = name.replace("\\", "\\\\").replace("\n", "\\n")
                file.write("\\")
            file.write(f"{row.sha256}  {name}\n")


def read_sources(output: Path, count: int) -> tuple[list[str], list[str]]:
    """The SHA-256 and the path of each row's picture, the path byte for byte, in any format.

    Raises `TaskError` where they are not told.
    """
    path = sources_path(output)
    try:
        with path.open(encoding="utf-8", errors="surrogateescape", newline="\n") as lines:
            found, names = [], []
            for line in lines:
                text = line.removeprefix("\\").removesuffix("\n")
                found.append(text[:64])
                names.append(_unescaped(text[66:]) if line.startswith("\\") else text[66:])
        if len(found) == count and all(map(DIGEST.fullmatch, found)):
            return found, names
        why = f"has {len(found)} lines for {count} rows"
        if len(found) == count:
            why = "holds lines without a SHA-256"
    except FileNotFoundError:
        why = "is missing"
    except OSError as error:
        why = f"cannot be read ({error.strerror})"
    raise TaskError(
        f"{str(path)!r}, which tells the pictures' content, {why}",
        "embed anew with --overwrite",
    )


def _unescaped(name: str) -> str:
    return re.sub(r"\\([\\n])", lambda found: "\n" if found[1] == "n" else "\\", name)


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


def _text(path: Path) -> Any:
    return closing(path.open("w", encoding="utf-8", errors="surrogateescape", newline=""))


def is_utf8(text: str) -> bool:
    """Whether a name has no bytes that are no UTF-8, which tables for other tools cannot hold."""
    return not any("\ud800" <= character <= "\udfff" for character in text)


def _path(row: Row) -> str:
    return row.path


def _label(row: Row) -> str:
    return row.label


def _runs(values: Iterator[str], length: int = 4096) -> Iterator[list[str]]:
    run: list[str] = []
    for value in values:
        run.append(value)
        if len(run) == length:
            yield run
            run = []
    if run:
        yield run


def refuse_grids(output: Path, kinds: Sequence[str], grids: frozenset[str]) -> None:
    """Raises `UsageError` for patch grids in a format of tables."""
    found = [kind for kind in kinds if kind in grids]
    if output.suffix in TABLES and found:
        raise UsageError(
            f"features {found[0]!r} are grids, which {output.suffix} does not hold",
            "use .npy, .npz or .safetensors",
        )
