"""All rows of an export in their order: those of an earlier export that stay, then the blocks."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dino_cli.store.embeddings.blocks import FeatureBlock, Row
from dino_cli.store.embeddings.parquet import parquet_thumbnails
from dino_cli.store.embeddings.reading import Embeddings
from dino_cli.tasks.embed.share import other_grid

__all__ = ["EarlierExport", "MergedBlocks"]

SLICE = 1024  # rows of the earlier export at a time


@dataclass(frozen=True)
class EarlierExport:
    """An earlier export that is being added to. digests: SHA-256 of its rows' pictures; keep:
    bool (N,), rows that stay."""

    export: Embeddings
    digests: list[str]
    keep: NDArray[np.bool_]


@dataclass
class MergedBlocks:
    """What `store.embeddings.writing` writes, a `FeatureExport`.

    Raises `TaskError` at its making when the pictures of two blocks make different grids.
    """

    kinds: Sequence[str]
    blocks: Sequence[FeatureBlock]
    base: EarlierExport | None = None
    count: int = 0
    shapes: Mapping[str, tuple[tuple[int, ...], str]] = field(default_factory=dict)
    classes: set[str] = field(default_factory=set)
    skipped: list[tuple[str, str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        shapes: dict[str, tuple[tuple[int, ...], str]] = {}
        if self.base is not None:
            for kind in self.kinds:
                array = self.base.export.arrays[kind]
                shapes[kind] = tuple(array.shape[1:]), array[0:1].dtype.str
        self._filled = []
        for block in self.blocks:
            self.skipped += block.skipped
            found = block.shapes
            if not found:
                continue
            self._filled.append(block)
            for kind in self.kinds:
                first = shapes.setdefault(kind, found[kind])
                if found[kind] != first:
                    raise other_grid(block.rows[0].path, found[kind][0], first[0])
        for row in self.rows():
            self.count += 1
            if row.label:
                self.classes.add(row.label)
        self.shapes = shapes

    def arrays(self, kind: str) -> Iterator[NDArray[Any]]:
        if self.base is not None:
            rows, keep = self.base.export.arrays[kind], self.base.keep
            for start in range(0, len(keep), SLICE):
                kept = np.asarray(rows[start : start + SLICE])[keep[start : start + SLICE]]
                if len(kept):
                    yield kept
        for block in self._filled:
            yield block.array(kind)

    def rows(self) -> Iterator[Row]:
        if self.base is not None:
            export = self.base.export
            columns = zip(
                self.base.keep, export.paths, export.labels, self.base.digests, strict=True
            )
            for keep, path, label, digest in columns:
                if keep:
                    yield Row(path, label, digest)
        for block in self._filled:
            yield from block.rows

    def thumbnails(self) -> Iterator[bytes]:
        if self.base is not None:
            pictures = parquet_thumbnails(self.base.export.path)
            for keep, picture in zip(self.base.keep, pictures, strict=True):
                if keep:
                    yield picture
        for block in self._filled:
            yield from block.thumbnails()
