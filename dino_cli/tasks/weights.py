"""Models by name: which there are, where they lie, and fetching them ahead of time.

`list`, `path` and `download` answer without torch, which takes seconds: what needs it is imported
in the functions.
"""

import re
import shutil
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from dino_cli.config.weights import (
    WeightsDownloadConfig,
    WeightsInspectConfig,
    WeightsRemoveConfig,
    WeightsVerifyConfig,
)
from dino_cli.errors import DinoError, TaskError, UsageError
from dino_cli.progress import Reporter
from dino_cli.store.weights.hub import locate, on_disk
from dino_cli.store.weights.registry import entries
from dino_cli.store.writing.atomic import atomic_write
from dino_cli.store.writing.targets import already_exists, check_parent

__all__ = [
    "download_weights",
    "inspect_file",
    "list_weights",
    "remove_weights",
    "verify_weights",
    "weights_path",
]

CONFIGS = ("config.json", "preprocessor_config.json")
WEIGHTS = re.compile(r"(model|pytorch_model)(-\d+-of-\d+)?\.(safetensors|bin)(\.index\.json)?")


def list_weights() -> list[dict[str, Any]]:
    """One JSON-ready record per model of the registry, in its order; `path` is None if not here."""
    records = []
    for entry in entries().values():
        path = on_disk(entry)
        records.append(
            {
                "name": entry.name,
                "architecture": entry.architecture,
                "patch_size": entry.patch_size,
                "parameters": entry.parameters,
                "knn": entry.knn,
                "linear": entry.linear,
                "licence": entry.licence,
                "hub": entry.hub,
                "url": entry.url,
                "note": entry.note,
                "bytes": _bytes(path) if path else None,
                "path": str(path) if path else None,
            }
        )
    return records


def _bytes(path: Path) -> int:
    files = _files(path) if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files)


def weights_path(name: str) -> Path:
    """The file (or Hugging Face folder) of a model on this disk; the network is not asked.

    Raises `TaskError` when it is not here, or there is no such model.
    """
    return locate(name, offline=True, reporter=Reporter()).path


def download_weights(config: WeightsDownloadConfig, reporter: Reporter) -> dict[str, str]:
    """Fetch every model into the cache; with `to`, copy them there. Where each of them lies now.

    Raises `TaskError` for the first that cannot be had, and before anything when `to` cannot be
    written. Models before that one stay; the error tells, and has where they lie as its result.
    """
    if not config.names:
        raise UsageError("no model named", "as in: dino weights download dino_vits16")
    if config.to is not None:
        _check(config.to)
    found: dict[str, str] = {}
    names = list(dict.fromkeys(config.names))
    for name in names:
        try:
            path = locate(name, offline=False, reporter=reporter).path
            if config.to is not None:
                path = _copy(path, config.to, name, overwrite=config.overwrite)
        except DinoError as error:
            raise _not_all(error, found, names[len(found) + 1 :], config.to) from None
        found[name] = str(path)
    return found


def _not_all(
    error: DinoError, found: dict[str, str], left: Sequence[str], to: Path | None
) -> DinoError:
    """The error of one model, and what became of those before and after it."""
    if not found and not left:
        return error
    said = [error.fix] if error.fix else []
    if found:
        where = f"in {str(to)!r}" if to is not None else "in the cache"
        said.append(f"{_listed(found)} {'is' if len(found) == 1 else 'are'} kept {where}")
    if left:
        said.append(f"{_listed(left)} {'was' if len(left) == 1 else 'were'} not tried")
    return type(error)(error.what, "; ".join(said), result=found or None)


def _listed(names: Iterable[str]) -> str:
    *most, last = names
    return f"{', '.join(most)} and {last}" if most else last


def inspect_file(config: WeightsInspectConfig) -> dict[str, Any]:
    """What the file holds; see `store.weights.inspection`. Raises `TaskError` for no weights."""
    from dino_cli.store.weights.inspection import inspect_weights

    return inspect_weights(config.path, config.checkpoint_key)


def verify_weights(config: WeightsVerifyConfig, reporter: Reporter) -> list[dict[str, Any]]:
    """Digest every file of the models: name, path, sha256, expected, by, ok.

    Raises `TaskError` when a model is not on this disk.
    """
    from dino_cli.store.weights.cache import verify_model

    names = config.names or [entry.name for entry in entries().values() if on_disk(entry)]
    return [
        {
            "name": file.name,
            "path": str(file.path),
            "sha256": file.sha256,
            "expected": file.wanted,
            "by": file.by,
            "ok": file.good,
        }
        for name in reporter.track(dict.fromkeys(names), "verifying", len(names), "models")
        for file in verify_model(name)
    ]


def remove_weights(config: WeightsRemoveConfig) -> list[dict[str, Any]]:
    """Delete models from the caches: name, path and bytes of what went. Raises `TaskError`."""
    from dino_cli.store.weights.cache import remove_model

    if not config.names:
        raise UsageError("no model named", "as in: dino weights remove dino_vits16")
    return [
        {"name": name, "path": str(path), "bytes": size}
        for name in dict.fromkeys(config.names)
        for path, size in remove_model(name)
    ]


def _check(folder: Path) -> None:
    if folder.exists() and not folder.is_dir():
        raise TaskError(f"{str(folder)!r} is a file", "name a folder with --to")
    check_parent(folder)


def _copy(source: Path, folder: Path, name: str, *, overwrite: bool) -> Path:
    """A file becomes FOLDER/NAME.suffix, a Hugging Face snapshot FOLDER/NAME/."""
    plain = name.replace("/", "--")
    if source.is_dir():
        target = folder / plain
        pairs = [(path, target / path.name) for path in _files(source)]
    else:
        target = folder / f"{plain}{source.suffix}"
        pairs = [(source, target)]
    taken = [path for _, path in pairs if path.exists()]
    if taken and not overwrite:
        raise already_exists(taken, "use --overwrite or another --to")
    try:
        _copy_all(pairs)
    except OSError as error:
        raise TaskError(
            f"cannot copy to {str(target)!r}: {error.strerror}", "choose another --to"
        ) from None
    return target


def _copy_all(pairs: Sequence[tuple[Path, Path]]) -> None:
    for source, target in pairs:
        target.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(target) as temporary:
            shutil.copyfile(source, temporary)


def _files(snapshot: Path) -> Iterator[Path]:
    for path in sorted(snapshot.iterdir()):
        if path.name in CONFIGS or WEIGHTS.fullmatch(path.name):
            yield path
