"""Models on the Hugging Face hub, through huggingface_hub and its cache.

Each of its refusals becomes one sentence, and one without a network comes within three seconds.
"""

import logging
from inspect import signature
from pathlib import Path
from typing import Any

from dino_cli.errors import TaskError
from dino_cli.progress import Reporter
from dino_cli.store.weights.digests import check, sha256_of
from dino_cli.store.weights.download import (
    ANSWER_SECONDS,
    GIVE_UP_SECONDS,
    Megabytes,
    no_room,
    require_room,
    within,
)
from dino_cli.store.weights.huggingface import INDEXES, WEIGHT_FILES, shards
from dino_cli.store.weights.registry import ModelEntry, close_matches, entries

__all__ = [
    "absent",
    "cached_file",
    "hub_folder",
    "hub_model",
    "remote_size",
    "switched_off",
    "unreachable",
]


def hub_model(
    repository: str,
    offline: bool,
    reporter: Reporter,
    entry: ModelEntry | None = None,
    file: str | None = None,
) -> Path:
    """The folder of a repository's snapshot with weights and configs; of timm's, the file itself.

    Weights are fetched last, so that where they are cached the network need not be asked.
    """
    alone = repository.startswith("timm/")
    names = (file,) if file else (*WEIGHT_FILES, *INDEXES)
    for name in names:
        path = cached_file(repository, name)
        if path is not None and (alone or _complete(path)):
            return path if alone else path.parent
    if offline or switched_off():
        raise absent(entry or repository)
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


def _fetch(repository: str, file: str, reporter: Reporter, entry: ModelEntry | None) -> Path | None:
    """A file of a repository, into the cache; None when the hub has no such file."""
    cached = cached_file(repository, file)
    if cached is not None:
        return cached
    size = remote_size(repository, file, entry)
    if size is None:
        return None
    if size >= 10**6:
        reporter.remark(f"fetching {repository} ({size / 1e6:.0f} MB) into {hub_folder()}")
    require_room(hub_folder(), size, f"{file} of {repository!r}")
    path = _downloaded(repository, file, size, reporter)
    if file in WEIGHT_FILES or file.startswith(("model-", "pytorch_model-")):
        _check(repository, path)
    return path


def remote_size(repository: str, file: str, entry: ModelEntry | None) -> int | None:
    """Bytes of a file on the hub; None when the hub has no such file.

    Raises `TaskError` when the hub does not answer in time, or does not give the repository.
    """
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
        return int(about.size or 0)
    except EntryNotFoundError:
        return None
    except GatedRepoError:
        raise TaskError(
            f"the hub gives {repository!r} only to those who accepted its licence",
            f"accept it at https://huggingface.co/{repository} and set HF_TOKEN",
        ) from None
    except RepositoryNotFoundError as error:
        if getattr(getattr(error, "response", None), "status_code", None) == 401:
            raise TaskError(
                f"the hub has no model {repository!r}, or shows it only to those it knows",
                "check the name, or set HF_TOKEN",
            ) from None
        raise _unknown(repository) from None
    except HFValidationError:
        raise _unknown(repository) from None
    except Exception as error:  # each version of the hub has its own exceptions for "no network"
        status = getattr(getattr(error, "response", None), "status_code", None)
        if status in (401, 403):
            raise TaskError(
                f"the hub refuses {repository!r} ({status})",
                "set HF_TOKEN to a token that may read it",
            ) from None
        why = f"the hub answered {status}" if status else "the hub does not answer"
        raise unreachable(entry or repository, why) from None


def _downloaded(repository: str, file: str, size: int, reporter: Reporter) -> Path:
    """huggingface_hub's own download: atomic, with its lock, going on with what it had begun."""
    import huggingface_hub

    huggingface_hub.utils.disable_progress_bars()
    huggingface_hub.utils.logging.set_verbosity(logging.CRITICAL)  # it tells of every retry
    options: dict[str, Any] = {}
    if size >= 10**6 and "tqdm_class" in signature(huggingface_hub.hf_hub_download).parameters:
        options["tqdm_class"] = _bar(Megabytes(reporter, f"fetching {file}", size))
    try:
        path = Path(huggingface_hub.hf_hub_download(repository, file, **options))
    except Exception as error:  # as above; a broken connection is not even an OSError
        if isinstance(error, OSError) and error.errno is not None:
            raise no_room(f"{file} of {repository!r}", hub_folder(), error) from None
        text = " ".join(str(error).split())[:100] or type(error).__name__
        raise TaskError(
            f"the download of {file} from {repository!r} broke off ({text})",
            "run the same command again",
        ) from None
    reporter.finish()
    return path


def _bar(progress: Megabytes) -> type:
    """What huggingface_hub takes for a progress bar of tqdm, telling ours instead."""
    from huggingface_hub.utils import tqdm

    class Bar(tqdm):  # type: ignore[misc]
        def update(self, n: float | None = 1) -> None:
            progress.add(int(n or 0))

    return Bar


def _check(repository: str, path: Path) -> None:
    """The hub names large files by their SHA-256, which its library does not compare."""
    try:
        check(repository, path, sha256_of(path))
    except TaskError as error:
        path.resolve().unlink(missing_ok=True)
        path.unlink(missing_ok=True)
        raise TaskError(error.what, "the download was dropped: try again") from None


def _unknown(repository: str) -> TaskError:
    near = close_matches(repository, [e.hub for e in entries().values() if e.hub])
    hint = f"did you mean {', '.join(near)}?" if near else "see `dino weights list`"
    return TaskError(f"the hub has no model {repository!r}", hint)


def cached_file(repository: str, file: str) -> Path | None:
    import huggingface_hub

    try:
        found = huggingface_hub.try_to_load_from_cache(repository, file)
    except ValueError:  # no possible name of a repository
        return None
    return Path(found) if isinstance(found, str) else None


def switched_off() -> bool:
    from huggingface_hub import constants

    return bool(constants.HF_HUB_OFFLINE)


def hub_folder() -> Path:
    """Where huggingface_hub keeps its files."""
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE)


def absent(model: ModelEntry | str) -> TaskError:
    name = model.name if isinstance(model, ModelEntry) else model
    return TaskError(
        f"the model {name!r} is not on this disk (neither shipped nor in {hub_folder()})",
        f"fetch it once with `dino weights download {name}` and no --offline, or give a file with"
        " --weights",
    )


def unreachable(model: ModelEntry | str, why: str) -> TaskError:
    name = model.name if isinstance(model, ModelEntry) else model
    where = (
        model.url
        if isinstance(model, ModelEntry) and model.url
        else f"https://huggingface.co/{name}"
    )
    return TaskError(
        f"the model {name!r} cannot be fetched: {why}, and {hub_folder()} does not hold it",
        f"fetch it elsewhere ({where}) and give the file with --weights, or copy that cache from a"
        " machine that has it and use --offline",
    )
