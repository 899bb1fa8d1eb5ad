"""How a task tells what it is doing. Tasks speak to a `Reporter`; the command line draws it.

A reporter is silent unless somebody listens: tests read it, `cli.display` draws it, ranks other
than zero get the silent one.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import TypeVar

__all__ = ["Reporter"]

T = TypeVar("T")


class Reporter:
    """Silent; the base of those that print. Called from the main thread only."""

    def stage(
        self, name: str, total: int | None = None, unit: str = "images", done: int = 0
    ) -> None:
        """A new stage begins: its name, how many units it has, and how many were done before."""

    def advance(self, count: int = 1) -> None:
        """`count` units of the current stage are done."""

    def metric(self, values: Mapping[str, float | int | str]) -> None:
        """The current figures, shown beside the bar of the current stage."""

    def remark(self, text: str) -> None:
        """Something the person should know, in one sentence; the work goes on."""

    def finish(self) -> None:
        """The current stage is over."""

    def track(self, items: Iterable[T], name: str, total: int, unit: str = "images") -> Iterator[T]:
        """Yield the items as one stage, advancing by one after each."""
        self.stage(name, total, unit)
        for item in items:
            yield item
            self.advance()
        self.finish()
