"""The options of `dino weights …`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from dino_cli.config.setting import setting

__all__ = [
    "WeightsDownloadConfig",
    "WeightsInspectConfig",
    "WeightsListConfig",
    "WeightsPathConfig",
    "WeightsRemoveConfig",
    "WeightsVerifyConfig",
]


@dataclass(frozen=True, kw_only=True)
class WeightsListConfig:
    """`dino weights list`: the models known by name."""


@dataclass(frozen=True, kw_only=True)
class WeightsPathConfig:
    """`dino weights path`: where a model's weights are on this disk."""

    name: str = setting(
        help="A name from `dino weights list`, a Hugging Face id, or a timm name.",
        argument=True,
        metavar="NAME",
    )


@dataclass(frozen=True, kw_only=True)
class WeightsDownloadConfig:
    """`dino weights download`: fetch weights before they are needed."""

    names: tuple[str, ...] = setting(
        (),
        "Names from `dino weights list`, Hugging Face ids, or timm names.",
        argument=True,
        metavar="NAME...",
    )
    to: Path | None = setting(
        None,
        "Also copy them into this folder, for --weights on a machine without a network.",
        metavar="DIR",
    )
    overwrite: bool = setting(False, "Replace copies that exist.")


@dataclass(frozen=True, kw_only=True)
class WeightsInspectConfig:
    """`dino weights inspect`: what a file holds, without building a network."""

    path: Path = setting(
        help="A file of weights, a `dino train` run folder or a Hugging Face folder.",
        argument=True,
        metavar="PATH",
    )
    checkpoint_key: Literal["teacher", "student"] = setting(
        "teacher", "Which network of a full checkpoint to look at."
    )


@dataclass(frozen=True, kw_only=True)
class WeightsVerifyConfig:
    """`dino weights verify`: whether files on this disk are still what was published."""

    names: tuple[str, ...] = setting(
        (),
        "Models; none: all of `dino weights list` that are on this disk.",
        argument=True,
        metavar="NAME...",
    )


@dataclass(frozen=True, kw_only=True)
class WeightsRemoveConfig:
    """`dino weights remove`: delete downloaded weights from the caches."""

    names: tuple[str, ...] = setting(
        (),
        "Names from `dino weights list`, Hugging Face ids, or timm names.",
        argument=True,
        metavar="NAME...",
    )
