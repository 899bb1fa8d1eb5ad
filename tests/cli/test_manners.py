"""What every command has in common: options, exit codes, silence, completion."""

import json
import re
import shlex
from typing import Any

import pytest
from in_process import command_tree
from typer.testing import CliRunner

from dino_cli.cli.app import app
from dino_cli.cli.display import Terminal
from dino_cli.errors import Interrupted, TaskError, UsageError


def every_command() -> dict[str, Any]:
    found = {}
    for name, one in command_tree().commands.items():
        for inner, sub in getattr(one, "commands", {"": one}).items():
            found[f"{name} {inner}".strip()] = sub
    return found


COMMANDS = every_command()


def invoke(words: list[str], **options: Any) -> Any:
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


def test_json_of_the_help_is_json() -> None:
    done = invoke(["help", "masks", "--json", "--quiet"])
    assert json.loads(done.stdout)["topic"] == "masks"
    assert done.stderr == ""
    told = json.loads(invoke(["help", "eval", "knn", "--json"]).stdout)
    assert told["topic"] == "eval knn"
    assert "--temperature" in told["text"]
