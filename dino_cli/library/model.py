"""The network that the other calls take."""

from os import PathLike
from pathlib import Path
from typing import Literal

from dino_cli.config.ranges import check_choices
from dino_cli.config.shared import NetworkOptions
from dino_cli.progress import Reporter
from dino_cli.tasks.model import Model, open_model

__all__ = ["Model", "load_model"]


def load_model(
    name: str = NetworkOptions.model,
    *,
    weights: str | PathLike[str] | None = None,
    device: str = NetworkOptions.device,
    precision: Literal["auto", "fp32", "bf16", "fp16"] = NetworkOptions.precision,
    arch: str | None = None,
    patch_size: int | None = None,
    heads: int | None = None,
    checkpoint_key: Literal["teacher", "student"] = NetworkOptions.checkpoint_key,
    offline: bool = False,
) -> Model:
    """A network, as the commands open it: a name of theirs, a hub id, timm's name, or `weights`.

    The result has `backbone`, `preprocessing`, `device` and `identity`; `embed` and
    `attention_masks` take it. Raises `UsageError` for options that cannot be, `TaskError` for
    weights that cannot be had or do not fit.
    """
    options = NetworkOptions(
        model=name,
        weights=Path(weights) if weights is not None else None,
        device=device,
        precision=precision,
        arch=arch,
        patch_size=patch_size,
        heads=heads,
        checkpoint_key=checkpoint_key,
        offline=offline,
    )
    check_choices(options)
    return open_model(options, Reporter())
