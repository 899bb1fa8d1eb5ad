"""What every command has in common: options, exit codes, silence, completion, colours."""

import json
import os
import pty
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import typer.main
from feature_files import clusters, write_index
from typer.testing import CliRunner

from dino_cli.cli.app import app
from dino_cli.cli.display import Terminal
from dino_cli.cli.eval.tables import show
from dino_cli.errors import Interrupted, TaskError, UsageError
from dino_cli.tasks.eval.report import Table


def every_command() -> dict[str, Any]:
    found = {}
    for name, one in typer.main.get_command(app).commands.items():
        for inner, sub in getattr(one, "commands", {"": one}).items():
            found[f"{name} {inner}".strip()] = sub
    return found


COMMANDS = every_command()
WHOLE = typer.main.get_command(app)  # made once: that takes a tenth of a second


def invoke(words: list[str], **options: Any) -> Any:
    with patch("typer.testing._get_command", return_value=WHOLE):
        return CliRunner().invoke(app, words, **options)


def line_of(name: str) -> list[str]:
    """The command with what it requires filled in."""
    words = name.split()
    for p in COMMANDS[name].params:
        if p.required:
            words += ["something"] if p.param_type_name == "argument" else [p.opts[0], "something"]
    return words


def flags_of(name: str) -> dict[str, list[str]]:
    return {
        p.name: [*p.opts, *p.secondary_opts]
        for p in COMMANDS[name].params
        if p.param_type_name == "option"
    }


@pytest.mark.parametrize("name", COMMANDS)
def test_the_shared_options_have_one_name_everywhere(name: str) -> None:
    flags = flags_of(name)
    assert flags["json"] == ["--json"]
    assert flags["quiet"] == ["--quiet", "-q"]
    assert flags["verbose"] == ["--verbose", "-v"]
    if "output" in flags:
        assert set(flags["output"]) == {"--output", "-o"}
        assert {"overwrite", "resume"} & set(flags), "an output that cannot be replaced"
    if "null" in flags:
        assert set(flags["null"]) == {"--null", "-0"}
    every = [flag for several in flags.values() for flag in several]
    assert len(every) == len(set(every))
    assert all(re.fullmatch(r"-[a-z0]|--[a-z][a-z0-9]*(-[a-z0-9]+)*", flag) for flag in every)


@pytest.mark.parametrize("name", COMMANDS)
def test_the_example_in_the_help_is_a_command(name: str) -> None:
    for line in re.findall(r"^Example: dino (.*)$", COMMANDS[name].help, re.MULTILINE):
        words = shlex.split(line)
        assert words[: len(name.split())] == name.split()
        rest = words[len(name.split()) :]
        COMMANDS[name].make_context(name, rest).close()


ENDS = [
    (KeyboardInterrupt(), 130, "dino: interrupted"),
    (Interrupted("interrupted: 3 are kept", "go on"), 130, "dino: interrupted: 3 are kept; go on"),
    (TaskError("'x' is gone", "make it"), 1, "dino: error: 'x' is gone; make it"),
    (UsageError("'x' is none", "use y"), 2, "dino: error: 'x' is none; use y"),
    (OSError(28, "No space left"), 1, "dino: error: cannot read or write what is printed"),
    (MemoryError(), 1, "dino: error: the memory is used up"),
]


@pytest.mark.parametrize(("error", "code", "words"), ENDS, ids=lambda x: type(x).__name__)
def test_exit_codes_and_sentences(
    error: BaseException, code: int, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A command of each group; what is below them is the same for all."""

    def fail(_: Terminal) -> Terminal:
        raise error

    monkeypatch.setattr(Terminal, "__enter__", fail)
    for name in ("embed", "eval knn", "export"):
        done = invoke(line_of(name))
        assert (done.exit_code, done.stdout) == (code, "")
        assert done.stderr.startswith(words)
        assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("name", COMMANDS)
def test_misuse_is_2_and_says_nothing_on_stdout(name: str) -> None:
    done = invoke([*line_of(name), "--no-such-option"])
    assert (done.exit_code, done.stdout) == (2, "")
    assert "--no-such-option" in done.stderr


@pytest.mark.parametrize("name", COMMANDS)
def test_ctrl_c_ends_every_command_with_130(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(_: Terminal) -> Terminal:
        raise KeyboardInterrupt

    monkeypatch.setattr(Terminal, "__enter__", interrupt)
    done = invoke(line_of(name))
    assert (done.exit_code, done.stdout, done.stderr) == (130, "", "dino: interrupted\n")


def test_quiet_and_verbose_exclude_each_other() -> None:
    done = invoke(["embed", "photos", "--quiet", "--verbose"])
    assert (done.exit_code, done.stdout) == (2, "")
    assert done.stderr == ("dino: error: --quiet and --verbose exclude each other; leave one out\n")


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("dino em", {"embed"}),
        ("dino ", {"embed", "knn", "map", "help", "eval", "train"}),
        ("dino eval seg", {"segmentation"}),
        ("dino embed --fea", {"--features"}),
        ("dino map f.npy --project u", {"umap"}),
        ("dino attention --masks t", {"tokens"}),
    ],
)
@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_shell_completes(typed: str, offered: set[str], shell: str) -> None:
    words = typed.split(" ")
    environment = {
        "_DINO_COMPLETE": f"complete_{shell}",
        "COMP_WORDS": typed,
        "COMP_CWORD": str(len(words) - 1),
        "_TYPER_COMPLETE_ARGS": typed,
        "_TYPER_COMPLETE_FISH_ACTION": "get-args",
    }
    done = invoke([], prog_name="dino", env=environment)
    found = set(re.findall(r"[\w-]+", done.stdout))
    assert offered <= found, done.stdout
    assert "bench" not in found or words[-1] == ""


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
    piped = invoke(words).stdout
    assert piped.count(".jpg") == 50


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


def test_json_of_the_help_is_json() -> None:
    done = invoke(["help", "masks", "--json", "--quiet"])
    assert json.loads(done.stdout)["topic"] == "masks"
    assert done.stderr == ""
