"""Many strings in one piece of memory.

A million Python strings are a million objects, and every process that counts references to them
gets its own copy of the pages they lie on. One buffer is shared by all forked processes, for good.
"""

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

__all__ = ["Names", "joined"]


class Names:
    """An immutable sequence of strings without NUL: UTF-8, each ended by a NUL byte.

    buffer: all of them; ends: int64 (N,), the position behind each one's NUL. Bytes that are no
    UTF-8 (names on disk need not be) pass through as surrogates, as in `os.fsdecode`.
    """

    __slots__ = ("buffer", "ends")

    def __init__(self, buffer: bytes, ends: NDArray[np.int64] | None = None) -> None:
        self.buffer = buffer
        if ends is None:
            ends = np.flatnonzero(np.frombuffer(buffer, np.uint8) == 0).astype(np.int64) + 1
        self.ends = ends

    @classmethod
    def pack(cls, strings: Iterable[str]) -> Self:
        text = "".join([f"{string}\0" for string in strings])
        return cls(text.encode("utf-8", "surrogateescape"))

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, index: int) -> str:
        if index < 0:
            index += len(self)
        if not 0 <= index < len(self):
            raise IndexError(index)
        start = int(self.ends[index - 1]) if index else 0
        return self.buffer[start : int(self.ends[index]) - 1].decode("utf-8", "surrogateescape")

    def __iter__(self) -> Iterator[str]:
        for piece in self.buffer.split(b"\0")[:-1]:
            yield piece.decode("utf-8", "surrogateescape")

    def part(self, start: int, stop: int) -> "Names":
        """Those from start to stop."""
        if start == 0 and stop == len(self):
            return self
        first = int(self.ends[start - 1]) if start else 0
        last = int(self.ends[stop - 1]) if stop else 0
        return Names(self.buffer[first:last], self.ends[start:stop] - first)

    def place(self, name: str, key: Callable[[str], Any] = str) -> int:
        """Where a name is or would be among these, which are sorted by `key`."""
        return bisect_left(self, key(name), key=key)


def joined(parts: Iterable[Names]) -> Names:
    """The names of all parts, one after the other."""
    kept = [part for part in parts if len(part)]
    starts = np.cumsum([0, *(len(part.buffer) for part in kept)])
    ends = [part.ends + start for part, start in zip(kept, starts, strict=False)]
    return Names(
        b"".join(part.buffer for part in kept),
        np.concatenate(ends) if ends else np.empty(0, np.int64),
    )
