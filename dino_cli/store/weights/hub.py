"""Weights by name: shipped, cached, or fetched from the Hugging Face hub or their original address.

The network is asked for nothing that is cached. Files keep the caches of others: huggingface_hub's
(HF_HOME, HF_ENDPOINT, HF_TOKEN, HF_HUB_OFFLINE are its own) and torch.hub's for original files.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dino_cli.config.shared import Preprocessing
from dino_cli.errors import TaskError
from dino_cli.progress import Reporter
from dino_cli.store.weights.download import (
    ANSWER_SECONDS,
    GIVE_UP_SECONDS,
    Unanswered,
    cached_download,
    download,
    within,
)
from dino_cli.store.weights.registry import Entry, close_matches, entries, refuse
from dino_cli.store.weights.sharded import read_json, shards

__all__ = ["Located", "cache_folder", "locate", "on_disk"]

WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")
INDEXES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")


@dataclass(frozen=True, kw_only=True)
class Located:
    """Weights of a named model on this disk.

    path: a file, or a folder in Hugging Face's form. source: where they come from, for outputs.
    arch, patch_size: what they must be. timm_config: timm's `pretrained_cfg`. preprocessing,
    attention_size: what the registry says.
    """

    path: Path
    name: str
    source: str
    arch: str | None = None
    patch_size: int | None = None
    timm_config: Mapping[str, Any] | None = None
    preprocessing: Preprocessing | None = None
    attention_size: int | None = None


def locate(name: str, *, offline: bool, reporter: Reporter) -> Located:
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
        path = _hub_model(name, offline, reporter)
        return Located(path=path, name=name, source=name, arch=_timm_architecture(path))
    return _of_timm(name, name, offline, reporter)


def on_disk(entry: Entry) -> Path | None:
    """Where the weights of one of our models are on this disk; None when they must be fetched."""
    found = entry.shipped or (cached_download(entry.url) if entry.url else None)
    if found is None and entry.hub:
        files = (_cached(entry.hub, file) for file in WEIGHT_FILES)
        found = next((path for path in files if path is not None), None)
    return found


def _of_entry(entry: Entry, offline: bool, reporter: Reporter) -> Located:
    path = entry.shipped or (cached_download(entry.url) if entry.url else None)
    source = entry.file if path is not None and path == entry.shipped else entry.url
    if path is None and entry.hub:
        path = _hub_model(entry.hub, offline, reporter, entry)
        source = entry.hub
    if path is None and entry.url:
        if offline or _switched_off():
            raise _absent(entry)
        path = _download(entry, entry.url, reporter)
    if path is None:
        raise TaskError(
            f"the model {entry.name!r} ships with the package, but {entry.file} is not there",
            "install dino-cli again, or give a file with --weights",
        )
    return Located(
        path=path,
        name=entry.name,
        source=str(source),
        arch=entry.architecture,
        patch_size=entry.patch_size,
        preprocessing=entry.preprocessing,
        attention_size=entry.attention_size,
    )


def _download(entry: Entry, url: str, reporter: Reporter) -> Path:
    try:
        return download(url, entry.sha256, reporter)
    except Unanswered as error:
        raise _unreachable(entry, str(error)) from None


# timm


def _of_timm(timm_name: str, name: str, offline: bool, reporter: Reporter) -> Located:
    import timm

    base, _, tag = timm_name.partition(".")
    if not timm.is_model(base):
        if name.startswith("timm/"):
            path = _hub_model(name, offline, reporter)
            return Located(path=path, name=name, source=name, arch=_timm_architecture(path))
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
    return Located(
        path=_hub_model(repository, offline, reporter, file=config.get("hf_hub_filename")),
        name=name,
        source=repository,
        arch=f"{base}.{config.get('tag') or tag}",
        timm_config=config,
    )


def _timm_architecture(path: Path) -> str | None:
    """The model that a hub repository in timm's own form names in its config.json."""
    name = (read_json(path / "config.json") or {}).get("architecture") if path.is_dir() else None
    return name if isinstance(name, str) else None


# The Hugging Face hub


def _hub_model(
    repository: str,
    offline: bool,
    reporter: Reporter,
    entry: Entry | None = None,
    file: str | None = None,
) -> Path:
    """The folder of a repository's snapshot with weights and configs; of timm's, the file itself.

    Weights are fetched last, so that where they are cached the network need not be asked.
    """
    alone = repository.startswith("timm/")
    names = (file,) if file else (*WEIGHT_FILES, *INDEXES)
    for name in names:
        path = _cached(repository, name)
        if path is not None and (alone or _complete(path)):
            return path if alone else path.parent
    if offline or _switched_off():
        raise _absent(entry or repository)
    if not alone:
        if _fetch(repository, "config.json", reporter, entry) is None:
            raise TaskError(f"the hub's {repository!r} has no config.json", "use another model")
        _fetch(repository, "preprocessor_config.json", reporter, entry)
    for name in names:
        path = _fetch(repository, name, reporter, entry)
        if path is not None:
            for shard in shards(path) if name in INDEXES else ():
                if _fetch(repository, shard.name, reporter, entry) is None:
                    raise TaskError(f"the hub's {repository!r} lacks {shard.name}", "use another")
            return path if alone else path.parent
    raise TaskError(
        f"the hub's {repository!r} has no model.safetensors and no pytorch_model.bin",
        "use another model",
    )


def _complete(weights: Path) -> bool:
    """Whether all else that is needed lies beside cached weights."""
    files = shards(weights) if weights.name in INDEXES else ()
    return all(path.is_file() for path in (weights.parent / "config.json", *files))


def _fetch(repository: str, file: str, reporter: Reporter, entry: Entry | None) -> Path | None:
    """A file of a repository, into the cache; None when the hub has no such file.

    Raises `TaskError` when the hub does not answer in time, or does not give the repository.
    """
    cached = _cached(repository, file)
    if cached is not None:
        return cached
    import huggingface_hub
    from huggingface_hub.errors import (
        EntryNotFoundError,
        GatedRepoError,
        HFValidationError,
        RepositoryNotFoundError,
    )

    try:
        address = huggingface_hub.hf_hub_url(repository, file)
        # hf_hub_download would try for 23 s to reach a hub that is not there; this fails at once.
        about = within(
            GIVE_UP_SECONDS,
            lambda: huggingface_hub.get_hf_file_metadata(address, timeout=ANSWER_SECONDS),
        )
    except EntryNotFoundError:
        return None
    except GatedRepoError:
        raise TaskError(
            f"the hub gives {repository!r} only to those who accepted its licence",
            f"accept it at https://huggingface.co/{repository} and set HF_TOKEN",
        ) from None
    except (RepositoryNotFoundError, HFValidationError):
        near = close_matches(repository, [e.hub for e in entries().values() if e.hub])
        hint = f"did you mean {', '.join(near)}?" if near else "see `dino weights list`"
        raise TaskError(f"the hub has no model {repository!r}", hint) from None
    except Exception as error:  # each version of the hub has its own exceptions for "no network"
        status = getattr(getattr(error, "response", None), "status_code", None)
        why = f"the hub answered {status}" if status else "the hub does not answer"
        raise _unreachable(entry or repository, why) from None
    megabytes = (about.size or 0) / 1e6
    if megabytes >= 1:
        reporter.remark(f"fetching {repository} ({megabytes:.0f} MB) into {cache_folder()}")
    huggingface_hub.utils.disable_progress_bars()
    huggingface_hub.utils.logging.set_verbosity(logging.CRITICAL)  # it tells of every retry
    try:
        return Path(huggingface_hub.hf_hub_download(repository, file))
    except Exception as error:  # as above; a broken connection is not even an OSError
        text = " ".join(str(error).split())[:100] or type(error).__name__
        raise TaskError(
            f"the download of {file} from {repository!r} broke off ({text})", "try again"
        ) from None


def _cached(repository: str, file: str) -> Path | None:
    import huggingface_hub

    try:
        found = huggingface_hub.try_to_load_from_cache(repository, file)
    except ValueError:  # no possible name of a repository
        return None
    return Path(found) if isinstance(found, str) else None


def _switched_off() -> bool:
    from huggingface_hub import constants

    return bool(constants.HF_HUB_OFFLINE)


def cache_folder() -> Path:
    """Where huggingface_hub keeps its files."""
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE)


def _absent(model: Entry | str) -> TaskError:
    name = model.name if isinstance(model, Entry) else model
    return TaskError(
        f"the model {name!r} is not on this disk (neither shipped nor in {cache_folder()})",
        f"fetch it once with `dino weights download {name}` and no --offline, or give a file with"
        " --weights",
    )


def _unreachable(model: Entry | str, why: str) -> TaskError:
    name = model.name if isinstance(model, Entry) else model
    where = (
        model.url if isinstance(model, Entry) and model.url else f"https://huggingface.co/{name}"
    )
    return TaskError(
        f"the model {name!r} cannot be fetched: {why}, and {cache_folder()} does not hold it",
        f"fetch it elsewhere ({where}) and give the file with --weights, or copy that cache from a"
        " machine that has it and use --offline",
    )
