"""How much memory Python and NumPy take for a piece of work; torch's tensors are not counted."""

import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

__all__ = ["Traced", "traced_memory"]


@dataclass
class Traced:
    """Bytes, known at the end: what is still held, and the most at one time."""

    held: int = 0
    most: int = 0


@contextmanager
def traced_memory() -> Iterator[Traced]:
    """Counts from here to the end of the block, where tracing stops whatever happened.

    A test that left tracing on would have its memory counted in those after it.
    """
    assert not tracemalloc.is_tracing(), "a test before this one still traces"
    traced = Traced()
    tracemalloc.start()
    try:
        yield traced
        traced.held, traced.most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
