"""The tables of an evaluation on a terminal."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from dino_cli.cli.display import Terminal

if TYPE_CHECKING:
    from dino_cli.tasks.eval.report import Table

__all__ = ["show", "show_report"]


def show_report(terminal: Terminal, tables: Sequence["Table"], result: Mapping[str, Any]) -> None:
    """Print them, and where the report is that -o leaves; nothing with `--json`."""
    page = f"{result['output']}/index.html" if "output" in result else None
    show(terminal, tables, page)
    if page:
        terminal.line(f"{page}: the report, with the published figures")


def show(terminal: Terminal, tables: Sequence["Table"], page: str | None) -> None:
    """Print them one below the other. page: where they are whole."""
    for i, table in enumerate(tables):
        if i:
            terminal.line("")
        terminal.table(
            table.title,
            list(table.columns),
            [list(row) for row in table.rows],
            rest=f"all are in {page}" if page else "-o FOLDER keeps all",
        )
        if table.note:
            terminal.note(table.note)
