"""What `dino train` shall do: defaults, a preset, a file, the flags, or the run to go on with."""

import json
import tomllib
from collections.abc import Mapping, Set
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from dino_cli.config.train import TrainConfig
from dino_cli.errors import TaskError, UsageError

__all__ = ["resolve"]

RESUMABLE = frozenset(
    {"device", "compile", "workers", "save_every", "keep_every", "log_every", "max_steps"}
    | {"eval_data", "eval_every", "strict", "resume", "checkpoint_activations", "data", "dry_run"}
)


def resolve(config: TrainConfig, given: Set[str]) -> TrainConfig:
    """Defaults < preset < file < flags; with --resume the run's own configuration.

    given: the names of the flags that the person typed. Raises `UsageError` for no data, an unknown
    preset or key, and for a flag that a resumed run cannot change.
    """
    flags = {name: getattr(config, name) for name in given}
    if config.resume is not None:
        return _resumed(config.resume, flags)
    values: dict[str, Any] = {}
    if config.preset is not None:
        values |= _from_toml(_preset_file(config.preset))
    if config.config is not None:
        values |= _from_toml(config.config)
    merged = replace(config, **{**values, **flags})
    if not merged.data:
        raise UsageError(
            "no data given", "name a folder of images: dino train photos/ -o runs/first"
        )
    return merged


def _resumed(run: Path, flags: Mapping[str, Any]) -> TrainConfig:
    path = run / "config.json"
    if not path.is_file():
        raise TaskError(
            f"{run} is not a run folder: it has no config.json",
            "give the folder that dino train -o made",
        )
    try:
        stored = json.loads(path.read_text())["train"]
        config = TrainConfig(**_typed(stored, path))
    except (ValueError, KeyError, TypeError):
        raise TaskError(
            f"{path} is not the configuration of a run", "restore it or start anew"
        ) from None
    for name in sorted(set(flags) - RESUMABLE):
        if flags[name] != getattr(config, name):
            raise UsageError(
                f"--{name.replace('_', '-')} cannot change in a resumed run "
                f"(it was {getattr(config, name)})",
                "leave it out, or start a new run with --init-from",
            )
    return replace(config, **{"dry_run": False, **flags, "resume": run})


def _preset_file(name: str) -> Path:
    folder = Path(__file__).parents[1] / "recipes"
    known = sorted(path.stem for path in folder.glob("*.toml"))
    if name not in known:
        raise UsageError(f"unknown preset {name!r}", f"choose one of {', '.join(known)}")
    return folder / f"{name}.toml"


def _from_toml(path: Path) -> dict[str, Any]:
    try:
        return _typed(tomllib.loads(path.read_text()), path)
    except OSError as error:
        raise TaskError(f"cannot read {path} ({error.strerror})", "check the path") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise TaskError(f"{path} is not a TOML file ({error})", "mend that line") from None


def _typed(values: Mapping[str, Any], source: Path) -> dict[str, Any]:
    """Values of a file as the types of the fields; refuses names that no option has."""
    hints = get_type_hints(TrainConfig)
    result = {}
    for key, value in values.items():
        name = key.replace("-", "_")
        if name in ("resume", "config", "preset", "dry_run") and source.suffix == ".toml":
            raise UsageError(f"{source} sets {key!r}, which only a flag can", "give it as a flag")
        if name not in hints:
            close = get_close_matches(name, hints, n=1)
            raise UsageError(
                f"{source} sets {key!r}, which is no option of dino train",
                f"did you mean {close[0]!r}?" if close else "see dino train --help",
            )
        result[name] = _as_type(value, hints[name], key, source)
    return result


def _as_type(value: Any, hint: Any, key: str, source: Path) -> Any:
    """`value` as the annotated type, or `UsageError`."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        if value is None and NoneType in arguments:
            return None
        return _as_type(value, next(a for a in arguments if a is not NoneType), key, source)
    good = False
    if origin is Literal:
        good = value in arguments
    elif origin is tuple and isinstance(value, list | tuple):
        inner = arguments[:1] * len(value) if arguments[-1] is Ellipsis else arguments
        if len(inner) == len(value):
            return tuple(_as_type(v, a, key, source) for v, a in zip(value, inner, strict=True))
    elif hint is Path:
        good = isinstance(value, str)
        value = Path(value) if good else value
    elif hint is float:
        good = isinstance(value, int | float) and not isinstance(value, bool)
        value = float(value) if good else value
    elif isinstance(hint, type):
        good = isinstance(value, hint) and not (hint is int and isinstance(value, bool))
    if not good:
        raise UsageError(
            f"{source} sets {key} to {value!r}, which it cannot be", "see dino train --help"
        )
    return value
