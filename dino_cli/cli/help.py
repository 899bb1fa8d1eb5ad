"""`dino help`: topics, each a text in `topics/`, and the help of commands."""

import io
import re
import shutil
import sys
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext, redirect_stdout
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import typer.main

from dino_cli.cli.app import app
from dino_cli.cli.display import Terminal
from dino_cli.cli.options import command
from dino_cli.config.help import HelpConfig
from dino_cli.config.values import counted
from dino_cli.errors import UsageError

TOPICS = Path(__file__).parents[1] / "topics"
WIDEST = 96  # columns that are good to read
MOST_FOUND = 8


@command(app, "help", HelpConfig)
def help_(config: HelpConfig, terminal: Terminal) -> dict[str, Any]:
    """Explain a topic: inputs, features, models, masks, training, exit codes and more.

    Alone it lists the topics. With the name of a command it shows that command's help, with any
    other words what the topics and the options of all commands say of them.

    Example: dino help masks
    """
    known = {path.stem: path for path in sorted(TOPICS.glob("*.md"))}
    if not config.topic:
        rows = [(name, _summary(path)) for name, path in known.items()]
        if not terminal.json:
            terminal.table("", ["topic", "about"], [list(row) for row in rows])
        return {"topics": [{"topic": name, "about": about} for name, about in rows]}
    name = " ".join(config.topic)
    if "-".join(config.topic) in known:
        text = known["-".join(config.topic)].read_text(encoding="utf-8")
        if not terminal.json:
            _show(text)
        return {"topic": "-".join(config.topic), "text": text}
    group: Any = typer.main.get_command(app)
    found = group
    for word in config.topic:
        found = getattr(found, "commands", {}).get(word)
        if found is None:
            return _search(config.topic, known, group, terminal)
    caught = io.StringIO()
    with redirect_stdout(caught) if terminal.json else nullcontext():
        group.main(args=[*config.topic, "--help"], prog_name="dino", standalone_mode=False)
    return {"topic": name, "text": caught.getvalue()}


def _search(
    words: Sequence[str], topics: Mapping[str, Path], group: Any, terminal: Terminal
) -> dict[str, Any]:
    """Where the topics and the options of commands speak of these words."""
    name = " ".join(words)
    close = get_close_matches(name, [*topics, *group.commands], n=1, cutoff=0.7)
    found = [] if close else passages(name, _said(topics, group))
    if not found:
        raise UsageError(
            f"{name!r} is neither a topic nor a command",
            f"did you mean dino help {close[0]}?" if close else "dino help lists the topics",
        )
    if not terminal.json:
        for where, text in found[:MOST_FOUND]:
            shown = "\n".join(textwrap.wrap(text, 78, break_on_hyphens=False))
            sys.stdout.write(f"{where}\n{textwrap.indent(shown, '  ')}\n\n")
    if len(found) > MOST_FOUND:
        terminal.remark(f"{counted(len(found) - MOST_FOUND, 'other place')} not shown; more words")
    return {"found": [{"help": where, "text": text} for where, text in found]}


def _said(topics: Mapping[str, Path], group: Any) -> Iterator[tuple[str, str]]:
    """Each paragraph of the topics and the help of each option, with the command that shows it."""
    for topic, path in topics.items():
        text = path.read_text(encoding="utf-8")
        heading = ""
        for lines in re.split(r"\n\n|\n(?=- )|^```.*$", text, flags=re.MULTILINE):
            paragraph = " ".join(lines.replace("`", "").split())
            where = f"dino help {topic.replace('-', ' ')}"
            if paragraph.startswith("#"):
                if not heading:
                    yield where, paragraph.lstrip("# ")
                heading = paragraph.lstrip("# ")
            elif paragraph:
                yield where, f"{heading}: {paragraph.removeprefix('- ')}"
    for words, one in _commands(group):
        for option in one.params:
            if getattr(option, "help", None):
                yield f"dino {words} --help", f"{option.opts[0]}: {option.help}"


def _commands(group: Any, before: str = "") -> Iterator[tuple[str, Any]]:
    for name, one in group.commands.items():
        if hasattr(one, "commands"):
            yield from _commands(one, f"{before}{name} ")
        else:
            yield f"{before}{name}", one


def passages(asked: str, said: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    """The texts that most words of `asked` begin a word of, if at least half of them do."""
    words = {
        re.sub(r"(?<=....)(ing|es?|(?<!s)s)$", "", word)
        for word in re.findall(r"[a-z0-9]{3,}", asked.lower())
    }
    rated = []
    for where, text in said:
        here = re.findall(r"[a-z0-9]+", text.lower())
        rated.append((sum(any(h.startswith(w) for h in here) for w in words), where, text))
    best = max((score for score, _, _ in rated), default=0)
    if not best or 2 * best < len(words):
        return []
    return [(where, text) for score, where, text in rated if score == best]


def _summary(path: Path) -> str:
    """What the first line says after the name: `# masks: from attention to objects`."""
    with path.open(encoding="utf-8") as lines:
        return next(lines).partition(": ")[2].strip()


def _show(text: str) -> None:
    """Drawn on a terminal, as plain text elsewhere."""
    width = min(WIDEST, shutil.get_terminal_size().columns)
    if not sys.stdout.isatty():
        sys.stdout.write("\n".join(plain_lines(text, 80)) + "\n")
        return
    from rich.console import Console
    from rich.markdown import Heading, Markdown
    from rich.text import Text

    class Left(Heading):
        """Headings at the left margin, without a frame."""

        def __rich_console__(self, _console: Any, _options: Any) -> Iterator[Text]:
            self.text.stylize("bold underline" if self.tag == "h1" else "bold")
            yield self.text

    Markdown.elements = {**Markdown.elements, "heading_open": Left}
    Console(width=width).print(Markdown(text, code_theme="ansi_light", inline_code_theme=None))


def plain_lines(text: str, width: int) -> Iterator[str]:
    """A topic without its markup, wrapped; lines of code stay whole, indented by four."""
    paragraph: list[str] = []
    code = False
    for line in [*text.splitlines(), ""]:
        starts = line.startswith(("- ", "#", "```")) or not line.strip()
        if paragraph and (starts or code):
            yield from _wrapped(" ".join(paragraph), width)
            paragraph = []
        if line.startswith("```"):
            code = not code
        elif code:
            yield f"    {line}"
        elif line.startswith("#"):
            yield line.lstrip("# ").upper()
        elif line.strip():
            paragraph.append(line.strip())
        else:
            yield ""


def _wrapped(text: str, width: int) -> list[str]:
    later = "  " if text.startswith("- ") else ""
    return textwrap.wrap(
        text, width, subsequent_indent=later, break_long_words=False, break_on_hyphens=False
    )
