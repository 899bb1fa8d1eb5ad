"""The tables of an evaluation on a terminal."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from dino_cli.cli.display import Terminal

if TYPE_CHECKING:
    from dino_cli.tasks.eval.report import Table

__all__ = ["show"]


def show(terminal: Terminal, tables: Sequence["Table"]) -> None:
    """Print them one below the other on stdout; nothing with `--json`."""
    for i, table in enumerate(tables):
        if i:
            terminal.line("")
        terminal.table(table.title, list(table.columns), [list(row) for row in table.rows])
        if table.note:
            terminal.line(table.note)
