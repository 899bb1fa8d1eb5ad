"""`dino help`: every topic is short, plain, and its examples are real commands."""

import json
import re
import shlex

import pytest
from in_process import command_tree
from typer.testing import CliRunner

from dino_cli.cli.app import app
from dino_cli.cli.help import TOPICS, plain_lines
from dino_cli.core.masks.objects import GUESS_BELOW

NAMES = sorted(path.stem for path in TOPICS.glob("*.md"))


def text_of(name):
    return (TOPICS / f"{name}.md").read_text()


def examples():
    """The arguments of each `dino` or `-m dino_cli` line in the topics."""
    found = []
    for name in NAMES:
        for block in re.findall(r"^```sh\n(.*?)^```", text_of(name), re.MULTILINE | re.DOTALL):
            for line in re.sub(r"\n +", " ", block).splitlines():
                for words in (shlex.split(part) for part in line.split(" | ")):
                    if "dino_cli" in words:
                        found.append((name, words[words.index("dino_cli") + 1 :]))
                    elif words[0] == "dino":
                        found.append((name, words[1:]))
    return found


def commands():
    """Each command by its words, and the options that it has."""
    found = {}
    for name, one in command_tree().commands.items():
        for inner, sub in getattr(one, "commands", {"": one}).items():
            options = {flag for p in sub.params for flag in (*p.opts, *p.secondary_opts)}
            found[f"{name} {inner}".strip()] = options
    return found


def test_the_list_names_every_topic():
    shown = CliRunner().invoke(app, ["help"])
    assert shown.exit_code == 0
    rows = [line.split("\t") for line in shown.stdout.splitlines()]
    assert [row[0] for row in rows] == ["topic", *NAMES]
    assert all(len(about) > 10 for _, about in rows[1:])
    listed = json.loads(CliRunner().invoke(app, ["help", "--json"]).stdout)
    assert [one["topic"] for one in listed["topics"]] == NAMES
    assert {"exit-codes", "environment", "masks", "models", "training", "many-machines"} <= {*NAMES}


@pytest.mark.parametrize("name", NAMES)
def test_a_topic_is_plain_text_without_a_terminal(name):
    shown = CliRunner().invoke(app, ["help", *name.split("-")])
    assert shown.exit_code == 0
    lines = shown.stdout.splitlines()
    assert lines[0].startswith(name.upper())
    assert 10 < len(lines) < 60
    assert max(map(len, lines)) <= 80
    assert "\x1b" not in shown.stdout
    assert "```" not in shown.stdout
    assert max(map(len, text_of(name).splitlines())) <= 80
    parts = re.split(r"^```.*", text_of(name), flags=re.MULTILINE)
    parts[::2] = [re.sub(r"^#+", "", prose, flags=re.MULTILINE) for prose in parts[::2]]
    assert "".join(shown.stdout.split()).lower() == "".join("".join(parts).split()).lower()


@pytest.mark.parametrize(("name", "words"), examples(), ids=str)
def test_every_example_parses(name, words):
    command = command_tree()
    if words[0].startswith("--"):  # completion, which ends the program
        assert words[0] in {flag for p in command.params for flag in p.opts}
        return
    while hasattr(command, "commands"):
        command, words = command.commands[words[0]], words[1:]
    command.make_context(command.name, list(words)).close()


@pytest.mark.parametrize("name", NAMES)
def test_every_option_that_a_topic_names_exists(name):
    known = set().union(*commands().values())
    known |= {flag for p in command_tree().params for flag in p.opts}
    torchrun = {"--nnodes", "--nproc-per-node", "--rdzv-backend", "--rdzv-endpoint"}
    known |= torchrun | {"--max-restarts", "-print0", "-newer", "-m", "-c"}
    named = set(re.findall(r"(?<![\w-])--?[a-z0][a-z0-9-]*", text_of(name)))
    assert named <= known | {"-"}


def test_the_scores_of_guesses_are_those_of_the_code():
    shown = re.sub(r"\s+", " ", CliRunner().invoke(app, ["help", "masks"]).stdout)
    assert "compares within one `--masks` only" in shown
    told = re.findall(r"([0-9.]+) for `(\w+)`", shown)
    assert {name: float(score) for score, name in told} == GUESS_BELOW


def test_a_commands_name_shows_its_help():
    for words in (["train"], ["eval", "knn"]):
        shown = CliRunner().invoke(app, ["help", *words])
        assert shown.exit_code == 0
        own = CliRunner().invoke(app, [*words, "--help"], prog_name="dino").stdout
        assert shown.stdout == own


def test_an_unknown_topic_names_a_close_one():
    shown = CliRunner().invoke(app, ["help", "maks"])
    assert shown.exit_code == 2
    assert shown.stderr == (
        "dino: error: 'maks' is neither a topic nor a command; did you mean dino help masks?\n"
    )
    assert "lists the topics" in CliRunner().invoke(app, ["help", "zzzzzz"]).stderr


@pytest.mark.parametrize(
    ("words", "where", "says"),
    [
        (["nan"], "dino help problems", "such steps change nothing"),
        (["CUDA out of memory"], "dino help problems", "--checkpoint-activations"),
        (["cuda", "out", "of", "memory"], "dino help problems", "--checkpoint-activations"),
        (["finetuning"], "dino help problems", "dino export makes a model"),
        (["faq"], "dino help problems", "frequent questions"),
        (["koleo"], "dino train --help", "--koleo-weight: "),
        (["confusion"], "dino knn --help", "--confusion: "),
    ],
)
def test_other_words_are_searched_for(words, where, says):
    shown = CliRunner().invoke(app, ["help", *words])
    assert shown.exit_code == 0
    hits = dict(hit.split("\n", 1) for hit in shown.stdout.rstrip().split("\n\n"))
    assert says in " ".join(hits[where].split())
    found = json.loads(CliRunner().invoke(app, ["help", *words, "--json"]).stdout)["found"]
    assert [where, True] in [[hit["help"], says in hit["text"]] for hit in found]


def test_a_search_that_finds_much_shows_the_first():
    shown = CliRunner().invoke(app, ["help", "images"])
    found = json.loads(CliRunner().invoke(app, ["help", "images", "--json"]).stdout)["found"]
    assert shown.stdout.count("\n\n") == 8
    assert f"{len(found) - 8} other places not shown" in shown.stderr


def test_long_paragraphs_wrap_and_code_does_not():
    text = (
        "# a: b\n\n" + "word " * 40 + "\n\n- " + "item " * 30 + "\n\n```sh\n" + "x" * 90 + "\n```\n"
    )
    lines = list(plain_lines(text, 60))
    assert max(len(line) for line in lines if "x" not in line) <= 60
    assert "    " + "x" * 90 in lines
    assert [line[:2] for line in lines if "item" in line] == ["- ", "  ", "  "]
