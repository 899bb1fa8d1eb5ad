"""Every `dino …` line of the README is a real command, and those on drawn images run in order."""

import re
import shlex
from pathlib import Path

import pytest
from in_process import command_tree
from typer.testing import CliRunner

from dino_cli.cli.app import app

README = (Path(__file__).parent.parent / "README.md").read_text()
ELSEWHERE = (
    "photos/",
    "imagenet/",
    "imagenette",
    "datasets.toml",
    "dino_vits16",
    "claims",
    "dino demo\n",
)  # other data, network, minutes


def lines():
    blocks = re.findall(r"^```sh\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
    return [line for block in blocks for line in block.splitlines() if line.strip()]


def commands():
    """The arguments of each `dino` or `python -m dino_cli` in the README."""
    found = []
    for line in lines():
        for part in line.split(" && "):
            words = shlex.split(part)
            if Path(words[0]).name == "dino":
                found.append(words[1:])
            elif "dino_cli" in words:
                found.append(words[words.index("dino_cli") + 1 :])
    return found


def test_there_are_commands():
    assert {words[0] for words in commands()} >= {
        "train", "embed", "knn", "attention", "weights", "demo",
    }  # fmt: skip


@pytest.mark.parametrize("words", commands(), ids=" ".join)
def test_every_command_parses(words):
    command = command_tree()
    while hasattr(command, "commands"):
        command, words = command.commands[words[0]], words[1:]
    command.make_context(command.name, list(words)).close()


def test_every_subcommand_has_a_section():
    top = command_tree().commands
    missing = [name for name in top if f"dino {name}" not in README]
    assert missing == []
    assert all(command.help and "TODO" not in command.help for command in top.values())


def on_drawings():
    """The lines that need only drawings, in their order, with the folders that they make."""
    return [
        line
        for line in lines()
        if line.startswith(("dino ", "mkdir -p "))
        and not any(word in line + "\n" for word in ELSEWHERE)
    ]


def test_no_command_on_drawn_images_writes_where_another_did():
    written = [
        words[words.index(option) + 1]
        for words in map(shlex.split, on_drawings())
        for option in ("-o", "--images")
        if option in words and "--append" not in words
    ]
    assert len(written) >= 8
    assert sorted(written) == sorted(set(written))


@pytest.mark.slow
def test_commands_on_drawn_images_run_as_printed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ran = 0
    for line in on_drawings():
        if line.startswith("mkdir -p "):
            Path(line.removeprefix("mkdir -p ")).mkdir(parents=True)
            continue
        result = CliRunner().invoke(app, shlex.split(line)[1:])
        assert result.exit_code == 0, f"{line}\n{result.output}"
        ran += 1
    assert ran >= 8
    for path in ("feats.npy", "feats.csv", "feats.json", "predictions.csv", "runs/first/loss.png"):
        assert (tmp_path / path).stat().st_size > 0, path


def test_the_test_command_is_the_one_that_ci_runs():
    script = (Path(__file__).parent.parent / ".ci" / "run").read_text()
    assert "README.md" in script
    assert any(re.match(r"python3 -m venv \.venv .*pytest", line) for line in lines())


def test_figures_have_commands():
    """A table of measured numbers is preceded by the command that makes them."""
    for table in re.finditer(r"^(\|[^\n]*\d[^\n]*\|\n)+", README, re.MULTILINE):
        before = README[: table.start()].rsplit("\n#", 1)[-1]
        assert "```sh" in before, table.group(0)[:80]
