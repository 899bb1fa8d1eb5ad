"""Command lines that cannot be understood: one sentence that says what was meant."""

import pytest
from typer.testing import CliRunner

from dino_cli.cli.app import app


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("embd", "no such command 'embd'; did you mean 'embed'?"),
        ("bench view", "no such command 'view'; did you mean 'views'?"),
        ("embed --modle x", "no such option '--modle'; did you mean '--model'?"),
        ("attention x.jpg --masks token", "did you mean 'tokens'?"),
        ("eval knn a", "missing argument 'VAL'; see dino eval knn --help"),
        ("train --epochs many x", "invalid value for '--epochs': not a whole number;"),
        ("--verion", "no such option '--verion'; did you mean '--version'?"),
    ],
)
def test_what_cannot_be_parsed_is_one_sentence_too(line: str, sentence: str) -> None:
    result = CliRunner().invoke(app, line.split())
    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr.startswith("dino: error: ")
    assert result.stderr.count("\n") == 1
    assert sentence in result.stderr


@pytest.mark.parametrize("flag", ["-o", "--output", "--weights", "--output="])
def test_an_empty_name_is_no_folder(flag: str) -> None:
    """A shell gives it for a variable that is not set."""
    words = ["attention", "x.jpg", *([flag] if flag.endswith("=") else [flag, ""])]
    result = CliRunner().invoke(app, words)
    assert (result.exit_code, result.stdout) == (2, "")
    said = f"{flag.rstrip('=')} is given an empty name; name a file or folder\n"
    assert result.stderr == f"dino: error: {said}"


@pytest.mark.parametrize("words", [["embed", "", "-q"], ["knn", "-q", ""], ["train", "a", ""]])
def test_an_empty_argument_is_no_folder_either(words: list[str]) -> None:
    result = CliRunner().invoke(app, [*words, "--device", "cpu"])
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr == "dino: error: an argument is an empty name; name a file or folder\n"


@pytest.mark.parametrize("flag", [["-o", "-"], ["--output", "-"], ["--output=-"]])
@pytest.mark.parametrize("command", ["embed", "attention", "map", "report", "train"])
def test_no_result_is_named_as_if_it_were_stdout(command: str, flag: list[str]) -> None:
    """A file or folder `-` would be made, which no command can name afterwards."""
    result = CliRunner().invoke(app, [command, "x", *flag])
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith("dino: error: -o - is no file: results are not written to")
