"""Turns a config dataclass into a Typer command: one option per field, defaults from the field."""

import inspect
import sys
from collections.abc import Callable, Container, Iterator, Mapping
from dataclasses import MISSING, Field
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import typer
from typer.core import TyperCommand

from dino_cli.cli.display import Terminal
from dino_cli.config.setting import Size, flag_of, options, parse_size
from dino_cli.config.values import json_text
from dino_cli.errors import DinoError, UsageError

__all__ = ["command"]

JSON_HELP = "Print the result as JSON on stdout."
QUIET_HELP = "No progress, only the result and errors."
VERBOSE_HELP = "Also versions, progress every second, and time and memory at the end."


def command(
    app: typer.Typer, name: str, config_type: type
) -> Callable[[Callable[[Any, Terminal], Any]], Callable[..., None]]:
    """Register `run(config, terminal) -> result` as the command `name`.

    The result is printed on stdout: with `--json` as JSON, else by `terminal` (the run function may
    already have printed a table). Options that the person gave are in `terminal.given`. The help
    text is the run function's docstring.
    """

    hints = get_type_hints(config_type)

    def register(run: Callable[[Any, Terminal], Any]) -> Callable[..., None]:
        def callback(ctx: typer.Context, **values: Any) -> None:
            as_json, quiet, verbose = (bool(values.pop(k)) for k in ("json", "quiet", "verbose"))
            given = {
                key
                for key in values
                if ctx.get_parameter_source(key).name == "COMMANDLINE"  # type: ignore[union-attr]
            }
            if quiet and verbose:
                raise UsageError("--quiet and --verbose exclude each other", "leave one out")
            terminal = Terminal(json=as_json, quiet=quiet, verbose=verbose, given=given)
            config = config_type(**{k: _frozen(v) for k, v in values.items()})
            try:
                with terminal:
                    result = run(config, terminal)
            except DinoError as error:
                if as_json and error.result is not None:
                    sys.stdout.write(json_text(error.result) + "\n")
                raise
            if as_json and result is not None:
                sys.stdout.write(json_text(result) + "\n")

        callback.__signature__ = _signature(config_type)  # type: ignore[attr-defined]
        callback.__doc__ = run.__doc__
        numbers = {
            flag_of(f.name): kinds
            for f in options(config_type)
            if (kinds := _kinds(hints[f.name])) and kinds[0] in (int, float)
        }
        paths = {
            flag
            for f in options(config_type)
            if Path in (hints[f.name], *get_args(hints[f.name]))
            for flag in (f.metadata.get("flag") or flag_of(f.name)).split(",")
        }
        kind = type("Command", (_Command,), {"numbers": numbers, "paths": paths})
        app.command(name, cls=kind, help=_literal(inspect.getdoc(run) or ""))(callback)
        return callback

    return register


class _Command(TyperCommand):
    """Takes `--mean .5 .4 .6` for any number of numbers, as argparse does, where click would want
    the flag before each, and `--mean .5,.4,.6`."""

    numbers: Mapping[str, tuple[Any, ...]] = {}  # by the flag; (float, ...) for any number of them
    paths: Container[str] = ()  # flags that take one

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        for flag, word in zip(args, [*args[1:], None], strict=False):
            name, equals, value = flag.partition("=")
            if name in self.paths and "" in ([value] if equals else [word]):
                # An unset variable of a shell, which would be the working folder
                raise UsageError(f"{name} is given an empty name", "name a file or folder")
            if name in ("-o", "--output") and (value if equals else word) == "-":
                raise UsageError(
                    "-o - is no file: results are not written to stdout",
                    "name one, or take --json for what the command tells",
                )
        for before, word in zip(["", *args], args, strict=False):
            if not word and not self._takes_value(before):
                raise UsageError("an argument is an empty name", "name a file or folder")
        spread: list[str] = []
        flag = ""
        for word in self._without_commas(args):
            if flag and spread[-1] != flag and _is_number(word):
                spread.append(flag)
            elif not _is_number(word):
                flag = word if Ellipsis in self.numbers.get(word, ()) else ""
            spread.append(word)
        try:
            return super().parse_args(ctx, spread)
        except Exception as error:
            if getattr(error, "ctx", ctx) is None:  # a misuse that does not know its command
                error.ctx = ctx  # type: ignore[attr-defined]
            raise

    def _takes_value(self, flag: str) -> bool:
        known = [p for p in self.params if flag in (*p.opts, *p.secondary_opts)]
        return any(not getattr(p, "is_flag", False) for p in known)

    def _without_commas(self, args: list[str]) -> Iterator[str]:
        for flag, word in zip(["", *args], args, strict=False):
            parts = word.split(",")
            if flag in self.numbers and all(map(_is_number, parts)):
                yield from parts
            else:
                yield word


def _literal(text: str) -> str:
    """Help in which `[atlas]` stays what it is: Typer gives it to rich, which reads markup."""
    return text.replace("[", "\\[")


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True


def _kinds(hint: Any) -> tuple[Any, ...]:
    """(float, float) of `tuple[float, float] | None`; empty for what is no tuple, or a `Size`."""
    for one in () if hint == Size else (hint, *get_args(hint)):
        if get_origin(one) is tuple:
            return get_args(one)
    return ()


def _metavar(hint: Any) -> str | None:
    """`<float,float>`, or `<6 floats>`, of so many numbers; None for what Typer names well."""
    kinds = _kinds(hint)
    if not kinds or Ellipsis in kinds:
        return None
    name = kinds[0].__name__
    return f"<{','.join([name] * len(kinds))}>" if len(kinds) < 4 else f"<{len(kinds)} {name}s>"


def _to_size(value: Any) -> Any:
    size = parse_size(value) if isinstance(value, str) else value
    return size[0] if isinstance(size, tuple) and size[0] == size[1] else size


def _frozen(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _signature(config_type: type) -> inspect.Signature:
    hints = get_type_hints(config_type)
    parameters = [
        inspect.Parameter("ctx", inspect.Parameter.KEYWORD_ONLY, annotation=typer.Context)
    ]
    parameters += [
        _parameter(f, hints[f.name]) for f in options(config_type) if "help" in f.metadata
    ]
    for name, flags, text in (
        ("json", ["--json"], JSON_HELP),
        ("quiet", ["--quiet", "-q"], QUIET_HELP),
        ("verbose", ["--verbose", "-v"], VERBOSE_HELP),
    ):
        option = typer.Option(*flags, help=text, rich_help_panel="Output")
        parameters.append(
            inspect.Parameter(
                name,
                inspect.Parameter.KEYWORD_ONLY,
                default=False,
                annotation=Annotated[bool, option],
            )
        )
    return inspect.Signature(parameters)


def _parameter(f: Field[Any], hint: Any) -> inspect.Parameter:
    meta: Mapping[str, Any] = f.metadata
    default = f.default
    parser = _to_size if hint == Size else None
    if parser:
        hint = Any
    if Ellipsis in _kinds(hint):
        hint = list[hint.__args__[0]]
        default = list(default) if isinstance(default, tuple) else default
    if meta["argument"]:
        info: Any = typer.Argument(
            help=_literal(meta["help"]), metavar=meta["metavar"], show_default=False
        )
    else:
        dashed = flag_of(f.name)
        flags = meta["flag"].split(",") if meta["flag"] else [dashed]
        if hint in (bool, bool | None):
            # What is on can be switched off; what another source may switch on, too (--config).
            switch = default is not False or meta["switch"]
            flags = [f"{dashed}/--no-{dashed[2:]}"] if switch else flags
        shown = default is not None and default is not False
        info = typer.Option(
            *flags,
            help=_literal(meta["help"]),
            metavar=meta["metavar"] or _metavar(hint),
            parser=parser,
            rich_help_panel=meta["panel"],
            show_default=shown,
        )
    return inspect.Parameter(
        f.name,
        inspect.Parameter.KEYWORD_ONLY,
        default=inspect.Parameter.empty if default is MISSING else default,
        annotation=Annotated[hint, info],
    )
