"""What stands at a path that should hold weights: a file, a run, a Hugging Face folder."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dino_cli.config.shared import Preprocessing
from dino_cli.core.network.architecture import Architecture, architecture_from_json
from dino_cli.errors import TaskError
from dino_cli.store.weights.digests import sha256_of
from dino_cli.store.weights.huggingface import INDEXES, WEIGHT_FILES, read_json, shards
from dino_cli.store.weights.preprocessing import (
    MOST,
    default_for,
    from_huggingface,
    from_timm,
    preprocessing_from_json,
)
from dino_cli.store.weights.tensor_files import TensorFile, read_tensor_file

__all__ = ["OwnRun", "Source", "open_source", "weight_files"]

SUFFIXES = (".safetensors", ".pth", ".pt", ".bin", ".ckpt")


@dataclass(frozen=True)
class OwnRun:
    """What `dino train` wrote about its weights."""

    architecture: Architecture
    preprocessing: Preprocessing
    attention_size: int


@dataclass(frozen=True)
class Source:
    """Weights as they were found: the tensors, and all that lay beside them.

    path: as given. files: that were read. content: tensors by name, perhaps nested. own: of a
    `dino train` run. config, preprocessor: of a Hugging Face folder, empty if there are none.
    timm_config: timm's `pretrained_cfg`. owned: see `TensorFile`.
    """

    path: Path
    files: tuple[Path, ...]
    content: Mapping[str, Any]
    owned: bool = field(default=True, kw_only=True)
    own: OwnRun | None = None
    config: Mapping[str, Any] = field(default_factory=dict)
    preprocessor: Mapping[str, Any] = field(default_factory=dict)
    timm_config: Mapping[str, Any] | None = None

    def digests(self) -> dict[Path, str]:
        """SHA-256 of each file."""
        return {path: sha256_of(path) for path in self.files}

    def sha256(self, digests: Mapping[Path, str] | None = None) -> str:
        """Of the file; of the digests in order when there are several."""
        found = list((digests or self.digests()).values())
        return found[0] if len(found) == 1 else hashlib.sha256("".join(found).encode()).hexdigest()

    def preprocessing(self, architecture: Architecture) -> Preprocessing:
        """What the model brings, else the reference's."""
        if self.timm_config is not None:
            return from_timm(self.timm_config)
        return from_huggingface(self.config, self.preprocessor, default_for(architecture))


def open_source(path: Path, checkpoint_key: str) -> Source:
    """Read a file of weights, a run folder or a Hugging Face folder. Raises `TaskError`."""
    if path.is_dir():
        return _open_folder(path, checkpoint_key)
    if not path.exists():
        raise TaskError(f"there are no weights at {str(path)!r}", "check the path")
    file = read_tensor_file(path)
    own = _own_of_header(file)
    beside = read_json(path.parent / "config.json") or {}
    if own is None and path.name.startswith("checkpoint") and _is_run(beside):
        own = _own(beside, path.parent / "config.json")
    if own is None and path.name in WEIGHT_FILES:
        return _with_configs(path, [file], path.parent)
    return Source(path, (path,), file.content, own, owned=file.owned)


def weight_files(path: Path) -> tuple[Path, ...]:
    """The files of weights that `open_source` reads from a file or a Hugging Face folder."""
    if not path.is_dir():
        return (path,)
    for name in WEIGHT_FILES:
        if (path / name).is_file():
            return (path / name,)
    for name in INDEXES:
        if (path / name).is_file():
            return shards(path / name)
    return ()


def _open_folder(folder: Path, checkpoint_key: str) -> Source:
    config = read_json(folder / "config.json") or {}
    if _is_run(config):
        return _open_run(folder, config, checkpoint_key)
    parts = [read_tensor_file(part) for part in weight_files(folder)]
    if parts:
        return _with_configs(folder, parts, folder)
    found = sorted(p for p in folder.iterdir() if p.is_file() and p.suffix in SUFFIXES)
    if len(found) == 1:
        return open_source(found[0], checkpoint_key)
    if found:
        names = ", ".join(p.name for p in found[:3])
        raise TaskError(
            f"the folder {str(folder)!r} holds {len(found)} files of weights ({names}, …)",
            "give one of them",
        )
    raise TaskError(
        f"there are no weights in the folder {str(folder)!r}",
        "give a file of weights, a run folder of `dino train` or a Hugging Face folder",
    )


def _with_configs(path: Path, files: Sequence[TensorFile], folder: Path) -> Source:
    config = read_json(folder / "config.json") or {}
    timm_config = config.get("pretrained_cfg") if "architecture" in config else None
    return Source(
        path,
        tuple(file.path for file in files),
        {name: value for file in files for name, value in file.content.items()},
        owned=all(file.owned for file in files),
        config=config,
        preprocessor=read_json(folder / "preprocessor_config.json") or {},
        timm_config=timm_config if isinstance(timm_config, dict) else None,
    )


# Runs of `dino train`


def _is_run(config: Mapping[str, Any]) -> bool:
    return "format" in config and isinstance(config.get("architecture"), dict)


def _open_run(folder: Path, config: Mapping[str, Any], checkpoint_key: str) -> Source:
    names = ["teacher.safetensors", "checkpoint.pt"]
    path = next(
        (folder / n for n in names[checkpoint_key != "teacher" :] if (folder / n).is_file()), None
    )
    if path is None:
        raise TaskError(
            f"the run {str(folder)!r} has not saved any weights yet",
            "wait for its first checkpoint",
        )
    file = read_tensor_file(path)
    own = _own(config, folder / "config.json")
    return Source(folder, (path,), file.content, own, owned=file.owned)


def _own_of_header(file: TensorFile) -> OwnRun | None:
    text = file.metadata.get("dino")
    if text is None:
        return None
    try:
        values = json.loads(text)
    except (ValueError, RecursionError):
        values = {}
    if isinstance(values, dict) and "features" in values:
        raise TaskError(
            f"{str(file.path)!r} holds features of `dino embed`, not weights",
            "name a file of weights",
        )
    return _own(values, file.path)


def _own(values: Mapping[str, Any], where: Path) -> OwnRun:
    try:
        size = values["attention_size"]
        if not isinstance(size, int) or not 0 < size <= MOST:
            raise ValueError(f"no size: {size}")
        return OwnRun(
            architecture_from_json(values["architecture"]),
            preprocessing_from_json(values["preprocessing"]),
            size,
        )
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError):
        raise TaskError(
            f"{str(where)!r} does not describe the weights as `dino train` does",
            "restore it from the run",
        ) from None
