"""What a person sees while a task works: bars on a terminal, plain lines elsewhere."""

import os
import re
import sys
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from types import TracebackType
from typing import TYPE_CHECKING, Any

from dino_cli.progress import Reporter

if TYPE_CHECKING:
    from rich.console import JustifyMethod, RenderableType
    from rich.progress import Progress, TaskID

__all__ = ["Terminal", "printable"]

CONTROLS = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")
PLAIN_SECONDS = 10.0  # without a terminal, a line about the current stage at most this often
VERBOSE_SECONDS = 1.0
MOST_ROWS = 20  # of a table about inputs, on a terminal


class Terminal(Reporter):
    """Draws progress on stderr and the result on stdout. A context manager around the task.

    json: the result will be printed as JSON, so print no tables. quiet: no progress, no remarks.
    verbose: more of them, with versions first, time and memory at the end. given: names of the
    options that the person typed.
    """

    def __init__(
        self,
        *,
        json: bool = False,
        quiet: bool = False,
        verbose: bool = False,
        given: set[str] | None = None,
    ) -> None:
        self.json = json
        self.quiet = quiet
        self.verbose = verbose and os.environ.get("RANK", "0") == "0"
        self.given = given or set()
        on = {"--json": json, "--quiet": quiet, "--verbose": verbose}
        self.switches = [name for name, value in on.items() if value]
        self._every = VERBOSE_SECONDS if verbose else PLAIN_SECONDS
        self.live = sys.stderr.isatty() and not quiet and os.environ.get("TERM") != "dumb"
        self._progress: Progress | None = None
        self._task: TaskID | None = None
        self._name, self._unit, self._total = "", "images", None  # type: tuple[str, str, int | None]
        self._done = self._before = self._told = 0
        self._entered = self._started = self._said = time.monotonic()
        self._metrics: Mapping[str, float | int | str] = {}

    def __enter__(self) -> "Terminal":
        if self.verbose:
            self.remark(_versions())
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._close()
        if self.verbose:
            self.remark(f"{time.monotonic() - self._entered:.1f} s{_memory()}")

    # Reporter

    def stage(
        self, name: str, total: int | None = None, unit: str = "images", done: int = 0
    ) -> None:
        self._close()
        self._name, self._total, self._unit = name, total, unit
        self._done = self._before = done
        self._told = 0
        self._started = self._said = time.monotonic()
        self._metrics = {}
        if not self.live:
            return
        from rich.console import Console
        from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn
        from rich.table import Column
        from rich.text import Text

        class Bar(Progress):
            """With the figures on a row of their own, so that a narrow terminal cuts none."""

            def get_renderables(self) -> Iterable["RenderableType"]:
                yield from super().get_renderables()
                for task in self.tasks:
                    if task.fields["metrics"]:
                        yield Text("  " + task.fields["metrics"], no_wrap=True, overflow="ellipsis")

        def fixed(text: str, **style: str) -> TextColumn:
            return TextColumn(text, table_column=Column(no_wrap=True), **style)  # type: ignore[arg-type]

        self._progress = Bar(
            SpinnerColumn(),
            fixed("[bold]{task.description}"),
            BarColumn(bar_width=None, table_column=Column(min_width=6, ratio=1)),
            fixed("{task.fields[count]}"),
            fixed("{task.fields[rate]}", style="cyan"),
            fixed("{task.fields[left]}"),
            console=Console(stderr=True),
            transient=True,
        )
        self._progress.start()
        self._task = self._progress.add_task(
            name, total=total, completed=done, **self._fields(), metrics=""
        )

    def advance(self, count: int = 1) -> None:
        self._done += count
        if self._progress is not None and self._task is not None:
            self._progress.update(self._task, advance=count, **self._fields())
        elif not self.quiet and time.monotonic() - self._said > self._every:
            self._plain()

    def metric(self, values: Mapping[str, float | int | str]) -> None:
        self._metrics = values
        if self._progress is not None and self._task is not None:
            self._progress.update(self._task, metrics=_shown(values))

    def remark(self, text: str) -> None:
        if self.quiet:
            return
        if self._progress is not None:
            self._progress.console.print(
                f"[yellow]•[/] {_escaped(text)}", highlight=False, soft_wrap=True
            )
        else:
            sys.stderr.write(f"dino: {printable(text)}\n")
            sys.stderr.flush()

    def finish(self) -> None:
        if self._done != self._told and not self.quiet and not self.live:
            self._plain()
        self._close()

    # Results

    def table(
        self, title: str, columns: list[str], rows: list[list[str]], *, rest: str = "", of: int = 0
    ) -> None:
        """A result on stdout: a drawn table on a terminal, tab-separated lines elsewhere.

        rest: where all rows are; a terminal then shows the first ones and says so. of: how many
        all are, when these are the first of them.
        """
        if self.json:
            return
        if not sys.stdout.isatty():
            for row in [columns, *rows]:  # a tab or line end in a name would be one of the table
                sys.stdout.write("\t".join(printable(cell) for cell in row) + "\n")
            return
        from rich.console import Console
        from rich.table import Table

        more = 0
        if rest and len(rows) > MOST_ROWS + 1:
            more, rows = max(of, len(rows)) - MOST_ROWS, rows[:MOST_ROWS]
        console, table = Console(), Table()
        if title:  # above the table: rich would break its own title at the table's width
            console.print(_escaped(title), style="bold", highlight=False)
        for i, column in enumerate(columns):
            numeric = all(_numeric(row[i]) for row in rows) and bool(rows)
            justify: JustifyMethod = "right" if numeric else "left"
            least = max(len(row[i]) for row in rows) if numeric else None
            # Where the terminal is narrow, folded: a path that is cut names nothing.
            table.add_column(column, justify=justify, overflow="fold", min_width=least)
        for row in rows:
            table.add_row(*[_escaped(cell) for cell in row])
        console.print(table, crop=False)
        if more:
            self.line(f"… and {more:,} more; {printable(rest)}")

    def line(self, text: str) -> None:
        """A line of the result on stdout; nothing with `--json`."""
        if not self.json:
            sys.stdout.write(text + "\n")

    def note(self, text: str) -> None:
        """Sentences about a table on stdout, which a terminal shows wrapped at words."""
        if self.json or not sys.stdout.isatty():
            self.line(text)
            return
        from rich.console import Console

        Console().print(printable(text), markup=False, emoji=False, highlight=False)

    # Private

    def _rate(self) -> str:
        seconds = time.monotonic() - self._started
        done = self._done - self._before
        return f"{done / seconds:.3g} {self._unit}/s" if seconds > 0.5 and done else ""

    def _fields(self) -> dict[str, Any]:
        """How far, how fast, and how long still, by the speed since the stage began."""
        count = f"{self._done:,}" + (f"/{self._total:,}" if self._total else "")
        return {"count": count, "rate": self._rate(), "left": self._left()}

    def _left(self) -> str:
        seconds, done = time.monotonic() - self._started, self._done - self._before
        if not self._total or not done or seconds <= 0.5:
            return ""
        return f"{_clock(seconds / done * max(0, self._total - self._done))} left"

    def _plain(self) -> None:
        self._said, self._told = time.monotonic(), self._done
        of = f"/{self._total}" if self._total else ""
        left = self._left() if self._done != self._total else ""
        done = f"{self._name} {self._done}{of} {self._unit}"
        parts = [done, self._rate(), left, _shown(self._metrics)]
        sys.stderr.write("dino: " + ", ".join(part for part in parts if part) + "\n")
        sys.stderr.flush()

    def _close(self) -> None:
        if self._progress is not None:
            self._progress.stop()
            self._progress = None
            self._task = None


def _clock(seconds: float) -> str:
    """1:02:03 or 2:03."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _versions() -> str:
    """What a report of a bug needs to know; imports nothing heavy."""
    import platform
    from importlib.metadata import PackageNotFoundError, version

    from dino_cli import __version__

    told = [f"dino {__version__}", f"Python {platform.python_version()}"]
    for name in ("torch", "timm", "numpy", "pillow"):
        with suppress(PackageNotFoundError):
            told.append(f"{name} {version(name)}")
    return ", ".join([*told, f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores"])


def _memory() -> str:
    """The most memory that this process has had, where the system tells."""
    try:
        import resource
    except ImportError:
        return ""
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return f", {most * (1 if sys.platform == 'darwin' else 1024) / 1e6:.0f} MB of memory at most"


def _shown(values: Mapping[str, float | int | str]) -> str:
    return "  ".join(f"{key} {_number(value)}" for key, value in values.items())


def _number(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _numeric(text: str) -> bool:
    return text.replace(".", "", 1).replace("-", "", 1).replace(",", "").rstrip("% ").isdigit()


def _escaped(text: str) -> str:
    from rich.markup import escape

    return escape(printable(text))


def printable(text: str) -> str:
    """The text without what would move or colour a terminal; line ends become escapes too."""
    return CONTROLS.sub(lambda found: repr(found[0])[1:-1], text)
