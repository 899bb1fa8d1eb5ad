"""Values of TOML and JSON files: as the types of options, compared, told, written; and counts."""

import json
import reprlib
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, NamedTuple, Union, get_args, get_origin

from dino_cli.config.setting import Size, parse_size
from dino_cli.errors import TaskError, UsageError

__all__ = ["Difference", "as_type", "counted", "difference", "json_text", "read_toml", "shown"]

LARGEST = 2**63  # what a whole number of TOML is below; Python reads, but does not print, any

_short = reprlib.Repr()
_short.maxstring = _short.maxother = 100


def shown(value: Any) -> str:
    """A value of a file as an error names it: of a long or deep one the beginning."""
    return _short.repr(value)


def counted(count: int, one: str, many: str | None = None) -> str:
    """`1 video`, `2 videos`; many: where that is more than a noun and its regular plural."""
    if count == 1:
        return f"1 {one}"
    if many is None:
        many = one[:-1] + "ies" if one.endswith("y") else one + ("es" if one[-1] == "s" else "s")
    return f"{count} {many}"


class Difference(NamedTuple):
    """A key in which the facts of two files differ, and its values; of weights the models'."""

    key: str
    ours: Any
    theirs: Any

    def __str__(self) -> str:
        return f"{self.told(self.ours)}, not {self.theirs}"

    def told(self, value: Any) -> str:
        """One of the values for people: "resize 256", or "a (weights 1234abcd)"."""
        return str(value) if self.key == "weights_sha256" else f"{self.key} {value}"


def difference(
    ours: Mapping[str, Any], theirs: Mapping[str, Any], keys: Iterable[str] | None = None
) -> Difference | None:
    """The first difference between the facts of two files, among all keys or these; of two objects
    the first one within. A key that is missing is as one without a value, but within objects."""
    for key in keys or {**ours, **theirs}:
        one, other = ours.get(key), theirs.get(key)
        if one == other:
            continue
        if key == "weights_sha256":
            one, other = (
                f"{facts.get('model')} (weights {str(facts.get(key))[:8]})"
                for facts in (ours, theirs)
            )
        elif isinstance(one, dict) and isinstance(other, dict):
            missing = object()
            inner = (k for k in {**one, **other} if one.get(k, missing) != other.get(k, missing))
            key = next(inner)
            one, other = one.get(key), other.get(key)
        return Difference(key, one, other)
    return None


def read_toml(path: Path) -> dict[str, Any]:
    """Raises `TaskError` in one sentence for a file that cannot be read or is no TOML."""
    try:
        values = tomllib.loads(path.read_text())
        wrong = _beyond_toml(values)
    except OSError as error:
        raise TaskError(f"cannot read {path} ({error.strerror})", "check the path") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise TaskError(f"{path} is not a TOML file ({error})", "fix that line") from None
    except ValueError:  # of more digits than Python reads
        wrong = "a value"
    if wrong:
        raise TaskError(
            f"{path} is not a TOML file ({wrong} is a whole number beyond 64 bits)", "fix that line"
        )
    return values


def _beyond_toml(values: dict[str, Any]) -> str:
    """The key whose value has a whole number that TOML does not; "" where none has."""
    waiting = list(values.items())  # dotted keys nest deeper than Python calls
    while waiting:
        key, value = waiting.pop()
        if isinstance(value, dict | list):
            waiting += [
                (key, one) for one in (value if isinstance(value, list) else value.values())
            ]
        elif isinstance(value, int) and not -LARGEST <= value < LARGEST:
            return shown(key)
    return ""


def json_text(value: Any) -> str:
    """Indented JSON; in ASCII where a name is no UTF-8, so that any program can read it."""
    text = json.dumps(value, indent=2, ensure_ascii=False)
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return json.dumps(value, indent=2)
    return text


def as_type(value: Any, hint: Any, key: str, source: Path, command: str) -> Any:
    """`value` of a file as the annotated type of an option of `command`, or `UsageError`."""
    origin, arguments = get_origin(hint), get_args(hint)
    if hint == Size:
        return _size(value, key, source, command)
    if origin in (Union, UnionType):
        if value is None and NoneType in arguments:
            return None
        rest = [a for a in arguments if a is not NoneType]
        return as_type(value, rest[0], key, source, command)
    good = False
    if origin is Literal:
        good = value in arguments
    elif origin is tuple and isinstance(value, list | tuple):
        inner = arguments[:1] * len(value) if arguments[-1] is Ellipsis else arguments
        if len(inner) == len(value):
            return tuple(
                as_type(v, a, key, source, command) for v, a in zip(value, inner, strict=True)
            )
    elif hint is Path:
        good = isinstance(value, str)
        value = Path(value) if good else value
    elif hint is float:
        good = isinstance(value, int | float) and not isinstance(value, bool)
        good = good and not (isinstance(value, int) and abs(value) > 10**300)
        value = float(value) if good else value
    elif isinstance(hint, type):
        good = isinstance(value, hint) and not (hint is int and isinstance(value, bool))
    if not good:
        raise UsageError(
            f"{source} sets {key} to {shown(value)}, which is not {_kind(hint)}",
            f"see {command} --help",
        )
    return value


def _kind(hint: Any) -> str:
    """What a value of that type is, as a person writes it in TOML."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Literal:
        return "one of " + ", ".join(f'"{choice}"' for choice in arguments)
    if origin is tuple:
        many = "" if arguments[-1] is Ellipsis else f" of {len(arguments)}"
        return f"a list{many}: [{_kind(arguments[0])}, …]"
    names = {int: "a whole number", float: "a number", bool: "true or false", str: "a text"}
    return names.get(hint, "a path in quotes")


def _size(value: Any, key: str, source: Path, command: str) -> Size:
    """224, "224x112" or [224, 112]; equal sides are one."""
    if isinstance(value, str):
        try:
            value = parse_size(value)
        except UsageError:
            raise UsageError(
                f"{source} sets {key} to {shown(value)}, which is not a size",
                "write 480 or 480x640",
            ) from None
    if isinstance(value, list | tuple):
        height, width = as_type(value, tuple[int, int], key, source, command)
        return int(height) if height == width else (height, width)
    return int(as_type(value, int, key, source, command))
