"""What `dino train` shall do: defaults, a preset, a file, the flags, or the run to go on with."""

import json
import os
import shlex
from collections.abc import Mapping, Set
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any, get_type_hints

from dino_cli.config.setting import flag_of
from dino_cli.config.train import TrainConfig
from dino_cli.config.values import as_type, read_toml, shown
from dino_cli.errors import TaskError, UsageError

__all__ = ["OWN_VITS", "RESCUING", "RUN_FORMAT", "read_run", "resolve", "stored"]

RUN_FORMAT = 1  # of a run's config.json

# What a resumed run may change without becoming another run: where and how it computes and what it
# keeps; with --batch-size and --accumulate only if the total batch stays (checked at the resume).
RESUMABLE = frozenset({
    "accumulate", "batch_size", "checkpoint_activations", "compile", "compress_gradients",
    "cuda_graph", "data", "device", "dry_run", "eval_data", "eval_every", "gpus", "keep",
    "keep_every", "log_every", "max_pixels", "max_steps", "max_unreadable", "null", "print_sbatch",
    "resume", "save_every", "strict", "timeout", "views", "watch", "workers",
})  # fmt: skip
# What a person changes to save a run that went wrong: allowed, and said.
RESCUING = frozenset({"clip_grad", "lr", "min_lr", "precision"})

OWN_VITS = frozenset({"vit_tiny", "vit_small", "vit_base"})
SIZES = frozenset({"width", "depth", "heads"})


def resolve(config: TrainConfig, given: Set[str]) -> TrainConfig:
    """Defaults < preset < file < flags; with --resume the run's own configuration.

    given: the names of the flags that the person typed. Raises `UsageError` for no data, an unknown
    preset or key, and for a flag that a resumed run cannot change; `TaskError` for what is no run.
    """
    flags = {name: getattr(config, name) for name in given}
    if config.resume is None and config.output and _restarted(config.output):
        config = replace(config, resume=config.output)
        flags = {name: value for name, value in flags.items() if name in RESUMABLE - {"data"}}
    if config.resume is not None:
        return _resumed(config.resume, flags)
    values: dict[str, Any] = {}
    if config.preset is not None:
        values |= _from_toml(_preset_file(config.preset))
    if config.config is not None:
        values = _own_shape(values, _from_toml(config.config))
    values = _own_shape(values, flags)
    merged = replace(config, **values)
    if not merged.data:
        raise UsageError(
            "no data given", "name a folder of images: dino train photos/ -o runs/first"
        )
    return merged


def _own_shape(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Both, the second winning; another `arch` does not take the size of the first one's network,
    and one that is no ViT of ours nothing that such a ViT alone has."""
    kept, arch = dict(below), above.get("arch")
    if arch is not None and below.get("arch") not in (None, arch):
        gone = SIZES if arch in OWN_VITS else SIZES | {"patch_size", "conv_stem"}
        kept = {name: value for name, value in below.items() if name not in gone}
    return {**kept, **above}


def _restarted(run: Path) -> bool:
    """Whether torchrun --max-restarts runs the same command again, for a run that exists."""
    count = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    return count.isdigit() and int(count) > 0 and (run / "config.json").is_file()


def read_run(run: Path) -> dict[str, Any]:
    """The config.json of a run folder. Raises `TaskError` when there is none, or a damaged one."""
    path = run / "config.json"
    if not path.is_file():
        why = "is not a run folder: it has no config.json" if run.exists() else "does not exist"
        raise TaskError(f"{str(run)!r} {why}", "give the folder that `dino train -o` made")
    try:
        values = json.loads(path.read_text())
        if values["format"] != RUN_FORMAT or not isinstance(values["train"], dict):
            raise ValueError
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        raise _damaged(path) from None
    return dict(values)


def stored(values: Mapping[str, Any], source: Path) -> TrainConfig:
    """The options that a run's config.json holds. Raises `TaskError` when they are damaged."""
    try:
        return TrainConfig(**_typed(values["train"], source))
    except (ValueError, KeyError, TypeError, AttributeError, UsageError):
        raise _damaged(source) from None


def _damaged(source: Path) -> TaskError:
    return TaskError(f"{source} is not the configuration of a run", "restore it or start anew")


def _folder_of(given: Path) -> Path:
    """The run folder that --resume names, perhaps by its newest checkpoint. Raises `TaskError` for
    another file: of a run, which can go on from its newest only, or of weights."""
    if not given.is_file():
        return given
    try:
        read_run(given.parent)
    except TaskError:
        raise TaskError(
            f"{given} is a file and not a run folder",
            f"to go on from its weights use --init-from {shlex.quote(str(given))}",
        ) from None
    if given.name == "checkpoint.pt":
        return given.parent
    raise TaskError(
        f"{given} is a file of a run, which goes on from its newest checkpoint",
        f"use {shlex.join(['--resume', str(given.parent)])}, or for a new run that begins with "
        f"these weights {shlex.join(['--init-from', str(given)])}",
    )


def _resumed(given: Path, flags: Mapping[str, Any]) -> TrainConfig:
    run = _folder_of(given)
    config = stored(read_run(run), run / "config.json")
    for name in sorted(set(flags) - RESUMABLE - RESCUING):
        if not _same(name, flags[name], getattr(config, name)):
            raise UsageError(
                f"{flag_of(name)} cannot change in a resumed run (it was {getattr(config, name)})",
                "leave it out, or start a new run with --init-from",
            )
    return replace(config, **{"dry_run": False, **flags, "resume": run})


def _same(name: str, given: Any, kept: Any) -> bool:
    """Whether a flag is as the run has it, whose paths are absolute."""
    return given == kept or (name == "init_from" and os.path.abspath(given) == kept)


def _preset_file(name: str) -> Path:
    folder = Path(__file__).parents[1] / "recipes"
    known = sorted(path.stem for path in folder.glob("*.toml"))
    if name not in known:
        raise UsageError(f"unknown preset {name!r}", f"choose one of {', '.join(known)}")
    return folder / f"{name}.toml"


def _from_toml(path: Path) -> dict[str, Any]:
    return _typed(read_toml(path), path)


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
                f"{source} sets {shown(key)}, which is not an option of dino train",
                f"did you mean {close[0]!r}?" if close else "see dino train --help",
            )
        result[name] = as_type(value, hints[name], key, source, "dino train")
    return result
