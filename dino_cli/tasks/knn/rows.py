"""Rows of feature files, as the search reads them: block by block."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dino_cli.core.evaluation.neighbors import Rows
from dino_cli.errors import TaskError

__all__ = ["ChainedRows", "FiniteRows"]


class ChainedRows:
    """Rows of several feature files as one."""

    def __init__(self, parts: Sequence[Rows]) -> None:
        self._parts = parts
        self._ends = np.cumsum([part.shape[0] for part in parts])
        self.shape: tuple[int, ...] = (int(self._ends[-1]), *parts[0].shape[1:])

    def __getitem__(self, rows: slice, /) -> NDArray[Any]:
        start, stop, _ = rows.indices(self.shape[0])
        pieces, before = [], 0
        for part, end in zip(self._parts, self._ends.tolist(), strict=True):
            if start < end and stop > before:
                pieces.append(part[max(start - before, 0) : min(stop, end) - before])
            before = end
        if not pieces:
            return np.empty((0, *self.shape[1:]), np.float32)
        return pieces[0] if len(pieces) == 1 else np.concatenate(pieces)


class FiniteRows:
    """Rows of one feature file. names: the images'; path: the file's.

    Reading a row that holds NaN or infinity raises `TaskError`: its similarities would be NaN too,
    and the votes of all queries that meet it.
    """

    def __init__(self, rows: Rows, names: Sequence[str], path: Path) -> None:
        self._rows, self._names, self._path = rows, names, path
        self._sound = 0  # the first rows, which were looked at: a search reads them again and again

    @property
    def shape(self) -> tuple[int, ...]:
        return self._rows.shape

    def __getitem__(self, rows: slice, /) -> NDArray[Any]:
        block = self._rows[rows]
        start, stop, step = rows.indices(self.shape[0])
        if stop <= self._sound:
            return block
        if not np.isfinite(block).all():
            whole = np.isfinite(block).reshape(len(block), -1).all(axis=1)
            first = start + step * int(np.argmin(whole))
            raise TaskError(
                f"the features of {self._names[first]!r} in {str(self._path)!r} are not finite",
                "embed it again, in fp32 if half precision overflowed",
            )
        if start <= self._sound and step == 1:
            self._sound = stop
        return block
