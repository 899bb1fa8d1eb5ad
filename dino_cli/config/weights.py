"""The options of `dino weights …`."""

from dataclasses import dataclass
from pathlib import Path

from dino_cli.config.setting import setting

__all__ = ["WeightsDownloadConfig", "WeightsListConfig", "WeightsPathConfig"]


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
