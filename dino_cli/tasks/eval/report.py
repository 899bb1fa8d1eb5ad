"""What every evaluation leaves: tables for a person, `result.json` for a machine, one page."""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dino_cli import __version__
from dino_cli.config.values import json_text
from dino_cli.store.pages import Picture, write_page
from dino_cli.store.writing.staging import stage_results
from dino_cli.store.writing.targets import check_free
from dino_cli.tasks.eval.published import PUBLISHED

__all__ = [
    "PAGE",
    "RESULT",
    "Example",
    "ExampleTile",
    "Table",
    "check_report",
    "report",
    "section",
    "spread",
    "write_report",
]

RESULT, PAGE = "result.json", "index.html"


@dataclass(frozen=True, kw_only=True)
class Table:
    """One table of a result, for a terminal and a page alike.

    rows: text cells, the first of a row its name. note: a sentence on what the figures are.
    """

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""


@dataclass(frozen=True)
class ExampleTile:
    """A picture of an example. value: what it scores, a fraction, or None."""

    picture: Picture
    caption: str
    value: float | None = None


@dataclass(frozen=True, kw_only=True)
class Example:
    """One of the pictures that were judged, in a row of tiles on the page."""

    title: str
    tiles: Sequence[ExampleTile]


def spread(count: int) -> list[int]:
    """At most six places of `count`, evenly apart, the first and the last among them."""
    few = min(count, 6)
    return [round(i * (count - 1) / max(1, few - 1)) for i in range(few)]


def check_report(output: Path | None, names: Sequence[str] = (), *, overwrite: bool) -> None:
    """Raises `TaskError` when the folder cannot take a report; to be asked before long work."""
    if output is not None:
        check_free(output, [*names, RESULT, PAGE], overwrite=overwrite)


def report(output: Path, names: Sequence[str] = ()) -> AbstractContextManager[Path]:
    """A folder to put the report's files in; they appear in `output` when the block succeeds.

    names: what else than `result.json` and `index.html` may be there.
    """
    return stage_results(output, [*names, RESULT, PAGE])


def write_report(
    stage: Path,
    name: str,
    result: Mapping[str, Any],
    figures: Mapping[str, float],
    tables: Sequence[Table],
    examples: Sequence[Example],
) -> None:
    """`result.json` and `index.html` of one evaluation. Raises `OSError`."""
    (stage / RESULT).write_text(json_text(result) + "\n", encoding="utf-8")
    part = section(name, result, figures, tables, examples)
    write_page(
        stage / PAGE,
        "evaluation",
        {
            "title": f"dino eval {name}",
            "lead": "Measured, with the figures that were published beside them.",
            "facts": [],
            "version": __version__,
            "sections": [part],
        },
    )


def section(
    name: str,
    result: Mapping[str, Any],
    figures: Mapping[str, float],
    tables: Sequence[Table],
    examples: Sequence[Example] = (),
    *,
    label: str = "",
) -> dict[str, Any]:
    """One evaluation as `evaluation.html.j2` shows it. label: which data set, of several."""
    published = PUBLISHED[name]
    columns = [column for column in published.columns if column in figures]
    columns += [column for column in figures if column not in columns]
    rows = [
        {"name": row.name, "cells": [row.figures.get(column) for column in columns]}
        for row in published.rows
        if not label or not row.data or row.data in label.lower()
    ]
    return {
        "anchor": f"{name}-{label}" if label else name,
        "title": f"{published.title}: {label}" if label else published.title,
        "about": published.about,
        "columns": columns,
        "ours": {
            "name": str(result.get("model", "measured")),
            "cells": [figures.get(column) for column in columns],
        },
        "published": [row for row in rows if any(cell is not None for cell in row["cells"])],
        "tables": tables,
        "examples": examples,
        "error": "",
    }
