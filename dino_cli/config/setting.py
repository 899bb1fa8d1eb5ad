"""How an option is declared: a dataclass field that is also a command-line option.

Each command has one frozen dataclass in this package, in a file of its name: every option's name,
default, help and reason are written there, once. `cli.options` turns the fields into options,
`tasks` receive the dataclass, outputs keep it as JSON. Standard library only, so that `dino --help`
need not import torch.
"""

from collections.abc import Collection, Mapping
from dataclasses import MISSING, Field, asdict, field, fields
from pathlib import Path
from typing import Any

from dino_cli.errors import UsageError

__all__ = [
    "Size",
    "arguments",
    "flag_of",
    "height_and_width",
    "json_ready",
    "options",
    "parse_size",
    "setting",
    "size_text",
    "to_json",
]

Size = int | tuple[int, int]  # of a square in pixels, or height and width


def setting(
    default: Any = MISSING,
    help: str = "",
    *,
    flag: str | None = None,
    panel: str | None = None,
    argument: bool = False,
    metavar: str | None = None,
    switch: bool = False,
) -> Any:
    """A field that is also a command-line option (or a positional argument).

    `flag` replaces the name made from the field's; `panel` groups options in the help; `switch`
    gives a flag that is off by default a --no- form, for what a file or preset may switch on.
    """
    metadata = {
        "help": help,
        "flag": flag,
        "panel": panel,
        "argument": argument,
        "metavar": metavar,
        "switch": switch,
    }
    return field(default=default, metadata=metadata)


def to_json(config: Any) -> dict[str, Any]:
    """The fields of a config dataclass by name, each as `json_ready` gives it."""
    return {key: json_ready(value) for key, value in asdict(config).items()}


def json_ready(value: Any) -> Any:
    """A value as JSON would give it back: paths as strings, tuples as lists."""
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Mapping):
        return {key: json_ready(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [json_ready(item) for item in value]
    return value


def options(config_type: type) -> tuple[Field[Any], ...]:
    """The fields of a config that are options or arguments, in the order of the help."""
    own_first = list(fields(config_type))
    inherited = {
        f.name
        for base in config_type.__mro__[1:]
        for f in getattr(base, "__dataclass_fields__", {}).values()
    }
    return tuple(sorted(own_first, key=lambda f: f.name in inherited))


def flag_of(name: str) -> str:
    """The flag of a field's name, unless the field has one of its own: batch_size, --batch-size."""
    return "--" + name.replace("_", "-")


def parse_size(text: str) -> Size:
    """ "480" → 480 (short side); "480x640" → (480, 640), height first. Raises `UsageError`."""
    parts = text.lower().split("x")
    if len(parts) in (1, 2) and all(map(_is_side, parts)):
        return int(parts[0]) if len(parts) == 1 else (int(parts[0]), int(parts[1]))
    raise UsageError(f"image size {text!r} is not a size", "write 480 or 480x640 (height x width)")


def height_and_width(size: Size) -> tuple[int, int]:
    """Both sides, in pixels."""
    return size if isinstance(size, tuple) else (size, size)


def size_text(size: Size) -> str:
    """As it is typed: 480, or 480x640 (height x width)."""
    return "x".join(map(str, size)) if isinstance(size, tuple) else str(size)


def arguments(config: Any, given: Collection[str]) -> list[str]:
    """The options in `given` as they stand in `config`, written out for another command line."""
    flags, positional = [], []
    for f in options(type(config)):
        if f.name not in given:
            continue
        value = getattr(config, f.name)
        flag = (f.metadata["flag"] or flag_of(f.name)).split(",")[0]
        if f.metadata["argument"]:
            positional += [str(v) for v in value] if isinstance(value, tuple) else [str(value)]
        elif isinstance(value, bool):
            flags.append(flag if value else f"--no-{flag[2:]}")
        elif isinstance(value, tuple):
            sides = f.type == Size
            flags += [flag, size_text(value)] if sides else [flag, *(str(v) for v in value)]
        elif value is not None:
            flags += [flag, str(value)]
    return [*flags, *(["--", *positional] if positional else [])]


def _is_side(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) < 7 and int(text) > 0
