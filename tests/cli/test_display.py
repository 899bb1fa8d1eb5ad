"""What a person sees of a task: progress, tables and notes, on a terminal and elsewhere."""

import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest
from feature_files import clusters, write_index
from in_process import dino
from rich.console import Console

from dino_cli.cli.display import Terminal
from dino_cli.cli.eval.tables import show
from dino_cli.tasks.eval.report import Table


def test_verbose_tells_versions_time_and_memory(capsys: pytest.CaptureFixture[str]) -> None:
    with Terminal(verbose=True) as terminal:
        terminal.line("the result")
    out, err = capsys.readouterr()
    assert out == "the result\n"
    first, last = err.splitlines()
    assert re.match(r"dino: dino \S+, Python 3\.\S+, torch \S+, ", first)
    assert re.fullmatch(r"dino: \d+\.\d s, \d+ MB of memory at most", last)


def test_verbose_tells_progress_every_second(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for verbose in (True, False):
        terminal = Terminal(verbose=verbose)
        clock = iter(range(100))
        monkeypatch.setattr("time.monotonic", lambda clock=clock: float(next(clock)))
        terminal.stage("reading", 4)
        for _ in range(4):
            terminal.advance()
        terminal.finish()
        lines = capsys.readouterr().err.splitlines()
        assert (len(lines) > 1) is verbose
        assert lines[-1].startswith("dino: reading 4/4 images")


def test_the_last_count_is_told_once(capsys: pytest.CaptureFixture[str]) -> None:
    terminal = Terminal()
    terminal._every = -1.0
    terminal.stage("reading", 2)
    terminal.advance(2)
    terminal.finish()
    assert capsys.readouterr().err.count("reading 2/2") == 1


@pytest.mark.parametrize("width", [60, 200])
def test_a_narrow_terminal_cuts_no_figure_of_training(
    width: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    terminal = Terminal()
    terminal.stage("training", 1_281_167)
    terminal.metric({"loss": 10.123, "entropy": 5.432, "spread": 0.9123, "wait": "1%"})
    assert terminal._progress is not None
    console = Console(width=width)
    with console.capture() as capture:
        console.print(terminal._progress.get_renderable())
    terminal.finish()
    bar, figures = capture.get().splitlines()
    assert "0/1,281,167" in bar
    assert " ".join(figures.split()) == "loss 10.12 entropy 5.432 spread 0.9123 wait 1%"


def on_a_terminal(*words: str, **environment: str) -> str:
    """What a command writes when stdout and stderr are a terminal."""
    ours, theirs = pty.openpty()
    env = {k: v for k, v in os.environ.items() if k not in ("NO_COLOR", "TERM", "CI")}
    process = subprocess.Popen(
        [sys.executable, "-m", "dino_cli", *words],
        stdin=subprocess.DEVNULL, stdout=theirs, stderr=theirs,
        env={**env, "TERM": "xterm-256color", "COLUMNS": "100", **environment},
    )  # fmt: skip
    os.close(theirs)
    pieces = []
    while True:
        try:
            piece = os.read(ours, 65536)
        except OSError:  # the other side is closed
            break
        if not piece:
            break
        pieces.append(piece)
    assert process.wait(60) == 0
    os.close(ours)
    return b"".join(pieces).decode()


def test_a_terminal_shows_the_first_rows_and_says_where_the_others_are(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [[f"{i}.jpg", "cat"] for i in range(1021)]
    columns, rest = ["path", "predicted"], "-o predictions.csv keeps all"
    Terminal().table("", columns, rows, rest=rest)
    assert len(capsys.readouterr().out.splitlines()) == 1022  # a pipe takes all
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    Terminal().table("", columns, rows, rest=rest)
    shown = capsys.readouterr().out
    assert (shown.count(".jpg"), "19.jpg" in shown, "20.jpg" in shown) == (20, True, False)
    assert shown.endswith("… and 1,001 more; -o predictions.csv keeps all\n")
    Terminal().table("", columns, rows, rest=rest, of=5020)  # of which these are the first
    assert "… and 5,000 more; " in capsys.readouterr().out
    for few, said in ((rows[:21], rest), (rows[:300], "")):
        Terminal().table("", columns, few, rest=said)
        shown = capsys.readouterr().out
        assert (shown.count(".jpg"), "more" in shown) == (len(few), False)


@pytest.mark.parametrize("width", [50, 24, 12])
def test_a_table_cuts_nothing_on_a_narrow_terminal(
    width: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    path = f"photos/{'x' * 60}/0.jpg"
    Terminal().table("", ["path", "similarity", "top-1 %"], [[path, "0.1234", "100.00"]])
    rows = [line.split("│")[1:-1] for line in capsys.readouterr().out.splitlines() if "│" in line]
    cells = ["".join(cell.strip() for cell in column) for column in zip(*rows, strict=True)]
    assert cells == [path, "0.1234", "100.00"]


def test_a_width_of_nothing_is_an_unknown_one() -> None:
    """As terminals say that are none."""
    shown = subprocess.run(
        [sys.executable, "-m", "dino_cli", "weights", "--help"],
        env={**os.environ, "COLUMNS": "0"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "Usage: dino weights" in shown.stdout


def test_notes_of_tables_wrap_at_words_on_a_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    note = "Mean over images [percent]. " + "To edges: the mask fitted by the guided filter. " * 4
    tables = [Table(title=f"A title. {note}", columns=["mask"], rows=[["mean"]], note=note)] * 2
    show(Terminal(), tables, None)
    assert capsys.readouterr().out == f"mask\nmean\n{note}\n\nmask\nmean\n{note}\n"
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    show(Terminal(), tables, None)
    shown = re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().out)
    assert max(map(len, shown.splitlines())) <= 80
    words = [word for word in shown.split() if word[0].isalpha() or word[0] == "["]
    one = [*note.split(), "mask", "mean", *note.split()]
    assert words == ["A", "title.", *one] * 2
    show(Terminal(json=True), tables, None)
    assert capsys.readouterr().out == ""


@pytest.mark.slow
def test_many_predictions_do_not_flood_a_terminal(tmp_path: Path) -> None:
    vectors, labels = clusters(60, seed=0)
    index = write_index(tmp_path / "index.npy", vectors, labels)
    queries = write_index(tmp_path / "new.npy", vectors[:50] + 0.1, [""] * 50)
    words = ["knn", str(queries), "--index", str(index), "-k", "5"]
    shown = on_a_terminal(*words)
    assert shown.count(".jpg") == 20
    assert "… and 30 more; -o predictions.csv keeps all" in shown
    assert dino(*words).stdout.count(".jpg") == 50


COLOUR = re.compile(r"\x1b\[[0-9;]*(3[0-7]|38|9[0-7])[0-9;]*m")


@pytest.mark.slow
@pytest.mark.parametrize(
    "words", [["embed", "--help"], ["help", "inputs"], ["weights", "list"]], ids=" ".join
)
def test_no_color_is_heeded(words: list[str]) -> None:
    plain = on_a_terminal(*words, NO_COLOR="1")
    assert len(plain) > 300
    assert not COLOUR.search(plain)
    if words != ["weights", "list"]:  # a table has none in any case
        assert COLOUR.search(on_a_terminal(*words))
