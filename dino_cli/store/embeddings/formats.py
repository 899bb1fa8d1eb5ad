"""The formats of exported features: suffixes, files, columns, and the rows that go into them."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from numpy.typing import NDArray

from dino_cli.config.frame_names import split_frame
from dino_cli.errors import UsageError
from dino_cli.store.embeddings.blocks import Row
from dino_cli.store.embeddings.sources import sources_path

__all__ = [
    "SUFFIXES",
    "TABLES",
    "FeatureExport",
    "export_files",
    "file_of_kind",
    "frame_and_time",
    "frame_columns",
    "is_utf8",
    "refuse_grids",
]

SUFFIXES = (".npy", ".npz", ".safetensors", ".parquet", ".csv")
TABLES = frozenset({".parquet", ".csv"})  # hold vectors, but no grids


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


def export_files(output: Path, kinds: Sequence[str]) -> list[Path]:
    """All files that one export leaves, the output first."""
    table, facts = output.with_suffix(".csv"), output.with_suffix(".json")
    beside = {
        ".npy": [*(file_of_kind(output, kind, kinds) for kind in kinds[1:]), table, facts],
        ".safetensors": [table, facts],
        ".csv": [facts],
    }.get(output.suffix, [])
    return [output, *beside, sources_path(output)]


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


def is_utf8(text: str) -> bool:
    """Whether a name has no bytes that are no UTF-8, which tables for other tools cannot hold."""
    return not any("\ud800" <= character <= "\udfff" for character in text)


def refuse_grids(output: Path, kinds: Sequence[str], grids: frozenset[str]) -> None:
    """Raises `UsageError` for patch grids in a format of tables."""
    found = [kind for kind in kinds if kind in grids]
    if output.suffix in TABLES and found:
        raise UsageError(
            f"features {found[0]!r} are grids, which {output.suffix} does not hold",
            "use .npy, .npz or .safetensors",
        )
