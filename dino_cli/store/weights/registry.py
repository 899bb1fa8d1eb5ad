"""The models we know by name, from `registry.toml`. Standard library only, to list fast."""

import difflib
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import dino_cli
from dino_cli.config.shared import Preprocessing
from dino_cli.errors import TaskError

__all__ = ["ModelEntry", "close_matches", "entries", "refuse", "shipped_folder"]


@dataclass(frozen=True, kw_only=True)
class ModelEntry:
    """One model by name.

    architecture: for `--arch`, None when the file itself tells it. hub: Hugging Face repository;
    url: the original file; file: of a backbone that ships with the package. parameters: millions.
    knn, linear: published ImageNet top-1 in percent. attention_size: short side in pixels, None for
    the usual. sha256: of the original file, None where its authors published none.
    """

    name: str
    architecture: str | None = None
    patch_size: int | None = None
    hub: str | None = None
    url: str | None = None
    file: str | None = None
    sha256: str | None = None
    licence: str = ""
    parameters: float | None = None
    knn: float | None = None
    linear: float | None = None
    resize: int = 256
    crop: int = 224
    attention_size: int | None = None
    note: str = ""

    @property
    def preprocessing(self) -> Preprocessing:
        """As its authors evaluated it."""
        return Preprocessing(resize=self.resize, crop=self.crop)

    @property
    def shipped(self) -> Path | None:
        """The shipped file, when it is here."""
        path = shipped_folder() / self.file if self.file else None
        return path if path is not None and path.is_file() else None


def shipped_folder() -> Path:
    """Where backbones ship: inside an installed package, beside it in a checkout."""
    package = Path(dino_cli.__file__).parent
    installed = package / "_weights"
    return installed if installed.is_dir() else package.parent / "weights"


@cache
def _registry() -> Mapping[str, Any]:
    path = shipped_folder() / "registry.toml"
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise TaskError(
            f"the list of models {str(path)!r} is missing or damaged", "install dino-cli again"
        ) from None


@cache
def entries() -> Mapping[str, ModelEntry]:
    """All models by name, in the file's order. Raises `TaskError` for a damaged installation."""
    return {name: ModelEntry(name=name, **values) for name, values in _registry()["model"].items()}


def refuse(name: str) -> None:
    """Raises `TaskError` with the reason when we know a model and cannot use it."""
    refused = _registry().get("refused", {}).get(name)
    if refused is not None:
        raise TaskError(f"the model {name!r} {refused['reason']}", refused["instead"])


def close_matches(name: str, more: list[str]) -> list[str]:
    """Up to three names like `name`, of ours and `more`, the likeliest first."""
    return difflib.get_close_matches(name, [*entries(), *more], n=3, cutoff=0.5)
