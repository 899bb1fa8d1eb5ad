"""Weights by name: shipped, cached, or fetched from the Hugging Face hub or their original address.

The network is asked for nothing that is cached. Files keep the caches of others: huggingface_hub's
(HF_HOME, HF_ENDPOINT, HF_TOKEN, HF_HUB_OFFLINE are its own) and torch.hub's for original files.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dino_cli.config.shared import Preprocessing
from dino_cli.errors import TaskError
from dino_cli.progress import Reporter
from dino_cli.store.weights.download import Unanswered, answers, cached_download, download
from dino_cli.store.weights.huggingface import WEIGHT_FILES, read_json
from dino_cli.store.weights.registry import ModelEntry, close_matches, entries, refuse
from dino_cli.store.weights.repository import (
    absent,
    cached_file,
    hub_model,
    remote_size,
    switched_off,
    unreachable,
)

__all__ = ["LocatedWeights", "locate", "on_disk", "reach"]


@dataclass(frozen=True, kw_only=True)
class LocatedWeights:
    """Weights of a named model on this disk.

    path: a file, or a folder in Hugging Face's form. source: where they come from, for outputs.
    arch, patch_size: what they must be. timm_config: timm's `pretrained_cfg`. preprocessing,
    attention_size: what the registry says. sha256: of the file, where the registry pins it.
    """

    path: Path
    name: str
    source: str
    arch: str | None = None
    patch_size: int | None = None
    timm_config: Mapping[str, Any] | None = None
    preprocessing: Preprocessing | None = None
    attention_size: int | None = None
    sha256: str | None = None


def locate(name: str, *, offline: bool, reporter: Reporter) -> LocatedWeights:
    """Find or fetch the model `name`: ours, a hub id, or timm's.

    Raises `TaskError` when there is no such model, or no way to it, within five seconds.
    """
    refuse(name)
    entry = entries().get(name)
    if entry is not None:
        return _of_entry(entry, offline, reporter)
    if name.startswith("timm/"):
        return _of_timm(name.removeprefix("timm/"), name, offline, reporter)
    if name.count("/") == 1:
        path = hub_model(name, offline, reporter)
        return LocatedWeights(path=path, name=name, source=name, arch=_timm_architecture(path))
    return _of_timm(name, name, offline, reporter)


def reach(name: str) -> None:
    """Nothing when `locate` may find the model; asks the network when it is not on this disk.

    Imports little, so that a missing network is told before the libraries of a task are loaded.
    Raises `TaskError` as `locate` does. Names of timm's alone are left to `locate`.
    """
    refuse(name)
    entry = entries().get(name)
    repository = entry.hub if entry else name if name.count("/") == 1 else None
    if switched_off() or (entry is not None and (entry.file or on_disk(entry) is not None)):
        return
    if repository is not None:
        files = (*WEIGHT_FILES, "config.json")
        if not any(cached_file(repository, file) for file in files):
            remote_size(repository, files[0], entry)
    elif entry is not None and entry.url:
        try:
            answers(entry.url)
        except Unanswered as error:
            raise unreachable(entry, str(error)) from None


def on_disk(entry: ModelEntry) -> Path | None:
    """Where the weights of one of our models are on this disk; None when they must be fetched."""
    found = entry.shipped or (cached_download(entry.url) if entry.url else None)
    if found is None and entry.hub:
        files = (cached_file(entry.hub, file) for file in WEIGHT_FILES)
        found = next((path for path in files if path is not None), None)
    return found


def _of_entry(entry: ModelEntry, offline: bool, reporter: Reporter) -> LocatedWeights:
    path = entry.shipped or (cached_download(entry.url) if entry.url else None)
    source = entry.file if path is not None and path == entry.shipped else entry.url
    if path is None and entry.hub:
        path = hub_model(entry.hub, offline, reporter, entry)
        source = entry.hub
    if path is None and entry.url:
        if offline or switched_off():
            raise absent(entry)
        path = _download(entry, entry.url, reporter)
    if path is None:
        raise TaskError(
            f"the model {entry.name!r} ships with the package, but {entry.file} is not there",
            "install dino-cli again, or give a file with --weights",
        )
    return LocatedWeights(
        path=path,
        name=entry.name,
        source=str(source),
        arch=entry.architecture,
        patch_size=entry.patch_size,
        preprocessing=entry.preprocessing,
        attention_size=entry.attention_size,
        sha256=entry.sha256,
    )


def _download(entry: ModelEntry, url: str, reporter: Reporter) -> Path:
    try:
        return download(url, entry.sha256, reporter)
    except Unanswered as error:
        raise unreachable(entry, str(error)) from None


# timm


def _of_timm(timm_name: str, name: str, offline: bool, reporter: Reporter) -> LocatedWeights:
    import timm

    base, _, tag = timm_name.partition(".")
    if not timm.is_model(base):
        if name.startswith("timm/"):
            path = hub_model(name, offline, reporter)
            return LocatedWeights(path=path, name=name, source=name, arch=_timm_architecture(path))
        near = close_matches(name, timm.list_models(pretrained=True))
        hint = f"did you mean {', '.join(near)}?" if near else "see `dino weights list`"
        raise TaskError(f"there is no model {name!r}", hint)
    tags = [found.partition(".")[2] for found in timm.list_models(f"{base}.*", pretrained=True)]
    if not tags or (tag and tag not in tags):
        known = f"timm has {', '.join(f'{base}.{t}' for t in tags[:3])}" if tags else ""
        raise TaskError(
            f"timm has no pretrained weights {timm_name!r}", known or "use another model"
        )
    config = timm.get_pretrained_cfg(timm_name).to_dict()
    repository = str(config.get("hf_hub_id") or "")
    if not repository:
        raise TaskError(
            f"timm has no weights of {timm_name!r} on the hub",
            f"fetch {config.get('url') or 'them'} and give the file with --weights",
        )
    return LocatedWeights(
        path=hub_model(repository, offline, reporter, file=config.get("hf_hub_filename")),
        name=name,
        source=repository,
        arch=f"{base}.{config.get('tag') or tag}",
        timm_config=config,
    )


def _timm_architecture(path: Path) -> str | None:
    """The model that a hub repository in timm's own form names in its config.json."""
    name = (read_json(path / "config.json") or {}).get("architecture") if path.is_dir() else None
    return name if isinstance(name, str) else None
