"""What no run of `dino train` could have, said before anything is touched."""

import sys
from collections.abc import Callable
from dataclasses import fields
from typing import Any

import torch

from dino_cli.config.setting import Size, flag_of, height_and_width, size_text
from dino_cli.config.shared import IMAGENET_MEAN, IMAGENET_STD
from dino_cli.config.train import TrainConfig
from dino_cli.config.values import counted
from dino_cli.core.network.architecture import VIT_SIZES, Architecture, VitArchitecture
from dino_cli.core.network.backbone import build_empty
from dino_cli.errors import UsageError
from dino_cli.tasks.train.setup import drop_path_of

__all__ = ["check", "check_views"]

YEAR = 365 * 24 * 60  # minutes


AT_LEAST_1 = (
    "batch_size", "accumulate", "epochs", "eval_every", "keep", "patch_size",
    "head_hidden", "head_bottleneck", "log_every", "in_chans", "max_steps", "save_every",
    "width", "depth", "heads", "global_size", "local_size",
)  # fmt: skip
POSITIVE = ("lr", "teacher_temp", "warmup_teacher_temp", "std", "final_size")
NOT_NEGATIVE = (
    "min_lr", "clip_grad", "weight_decay", "weight_decay_end", "workers", "keep_every",
    "freeze_last_layer", "watch", "local_crops_number", "jitter", "augment_start", "koleo_weight",
)  # fmt: skip
SHARES = (
    "momentum_teacher", "center_momentum", "jitter_prob", "grayscale_prob", "solarize_prob",
    "augment_ramp", "final_share", "max_unreadable",
)  # fmt: skip
LARGEST = sys.float_info.max  # whole numbers of a TOML file may be larger; NaN is not below it
# Which options, what each of their numbers has to obey, and what is said of one that does not.
RULES: tuple[tuple[tuple[str, ...], Callable[[float], bool], str], ...] = (
    (AT_LEAST_1, lambda x: x >= 1, "must be at least 1"),
    (POSITIVE, lambda x: x > 0, "must be positive"),
    (NOT_NEGATIVE, lambda x: x >= 0, "must not be negative"),
    (SHARES, lambda x: 0 <= x <= 1, "must be between 0 and 1"),
    (("blur_prob",), lambda x: 0 <= x <= 1, "are probabilities"),
    (("drop_path",), lambda x: 0 <= x < 1, "must be in [0, 1)"),
    (("out_dim",), lambda x: x >= 2, "must be at least 2"),
    (("seed",), lambda x: 0 <= x < 2**63, "must not be negative, nor above 2^63 - 1"),
    (("timeout",), lambda x: 0 < x <= YEAR, "must be positive, at most a year"),
)


def check(config: TrainConfig) -> None:
    """Raise `UsageError` for values that no run could have, before anything is touched."""
    for field in fields(config):
        finite = all(-LARGEST <= x <= LARGEST for x in _numbers(config, field.name))
        _require(finite, config, field.name, "must be finite")
    for names, obeys, text in RULES:
        for name in names:
            _require(all(map(obeys, _numbers(config, name))), config, name, text)
    _check_channels(config)
    _check_colours_and_crops(config)
    _check_warmups(config)
    if config.koleo_weight and config.batch_size < 2:
        raise UsageError(
            f"--koleo-weight {config.koleo_weight:g} compares the images of a batch, and "
            f"--batch-size is {config.batch_size}",
            "use at least 2, or leave --koleo-weight out",
        )
    if config.arch in VIT_SIZES:
        _check_patches(config)


def _check_channels(config: TrainConfig) -> None:
    for name, default in (("mean", IMAGENET_MEAN), ("std", IMAGENET_STD)):
        given = getattr(config, name)
        fits = given == default or len(given) in (1, config.in_chans)
        _require(fits, config, name, f"must be {config.in_chans} numbers (--in-chans), or one")
    if config.in_chans != 3 and config.views == "gpu":
        raise UsageError(
            f"--views gpu makes views of RGB photos, not of {config.in_chans} channels",
            "leave it out: the processes that load images make them",
        )


def _check_colours_and_crops(config: TrainConfig) -> None:
    start = config.augment_start
    _require(config.jitter[3] <= 0.5, config, "jitter", "has a hue outside [0, 0.5]")
    _require(start[3] <= 0.5, config, "augment_start", "has a hue outside [0, 0.5]")
    _require(max(start[4:]) <= 1, config, "augment_start", "ends in two probabilities")
    for name in ("global_crops_scale", "local_crops_scale"):
        low, high = getattr(config, name)
        _require(0 < low <= high <= 1, config, name, "must be two shares, 0 < low <= high <= 1")
    if config.final_size and isinstance(config.global_size, tuple):
        raise UsageError(
            f"--final-size gives sides of squares, and --global-size is "
            f"{size_text(config.global_size)}",
            "leave one of them out",
        )


def _check_warmups(config: TrainConfig) -> None:
    for name in ("warmup_epochs", "warmup_teacher_temp_epochs"):
        epochs = getattr(config, name)
        if epochs is not None and not 0 <= epochs <= config.epochs:
            raise UsageError(
                f"{flag_of(name)} {_told(epochs)} is longer than the run of "
                f"{counted(config.epochs, 'epoch')}",
                "shorten it or raise --epochs",
            )


def _check_patches(config: TrainConfig) -> None:
    """Views of whole patches, which our own networks do not trim."""
    patch_size = config.patch_size
    sizes = {"global_size": _numbers(config, "global_size"), "final_size": _final_sizes(config)}
    if config.local_crops_number:
        sizes["local_size"] = _numbers(config, "local_size")
    for name, sides in sizes.items():
        for side in sides:
            if side % patch_size:
                raise UsageError(
                    f"{flag_of(name)} {side} is not a whole number of {patch_size}-pixel patches",
                    f"use {max(1, int(side) // patch_size) * patch_size}",
                )


def _final_sizes(config: TrainConfig) -> tuple[int, ...]:
    """The sides of --final-size that views will have: there may be no local ones."""
    sides = config.final_size or ()
    return sides if config.local_crops_number else sides[:1]


def _numbers(config: TrainConfig, name: str) -> tuple[float, ...]:
    """The numbers of an option: one, several, or none where it is not given or is text."""
    value = getattr(config, name)
    values = value if isinstance(value, tuple) else (value,)
    return tuple(x for x in values if isinstance(x, int | float))


def _told(number: float) -> str:
    return f"{number:g}" if isinstance(number, float) else str(number)


def _require(good: bool, config: TrainConfig, name: str, rule: str) -> None:
    if not good:
        shown = " ".join(map(_told, _numbers(config, name)))
        raise UsageError(f"{flag_of(name)} {shown} {rule}", "see dino train --help")


def check_views(architecture: Architecture, config: TrainConfig) -> None:
    """Raise `UsageError` for a timm model that cannot take views of these sizes or --drop-path, and
    for views that --checkpoint-activations would confuse."""
    if not isinstance(architecture, VitArchitecture):
        _check_timm(architecture, config)
    if config.checkpoint_activations and config.drop_path and config.local_crops_number:
        pairs: list[tuple[Size, Size]] = [(config.global_size, config.local_size)]
        pairs += [config.final_size] if config.final_size else []
        for pair in pairs:
            large, small = (_last_shape(architecture, config, size) for size in pair)
            if large == small:  # by which `core.training.droppath` tells them apart
                raise UsageError(
                    f"global and local views of {size_text(pair[0])} and {size_text(pair[1])} px "
                    "give equally many features, and --checkpoint-activations with --drop-path "
                    "could not tell them apart",
                    "change --local-size, or use --drop-path 0",
                )


def _last_shape(
    architecture: Architecture, config: TrainConfig, size: Size
) -> int | tuple[int, ...]:
    """How many patches the view has, or the shape of its last feature map: where those of two sizes
    differ, so do all maps before."""
    height, width = height_and_width(size)
    if isinstance(architecture, VitArchitecture):
        return (height // architecture.patch_size) * (width // architecture.patch_size)
    net: Any = build_empty(architecture)
    features = net.forward_features(torch.empty(2, config.in_chans, height, width, device="meta"))
    return tuple(features.shape[1:])


def _check_timm(architecture: Architecture, config: TrainConfig) -> None:
    sizes: set[Size] = {config.global_size, *_final_sizes(config)}
    if config.local_crops_number:
        sizes.add(config.local_size)
    size: Size = config.global_size
    try:
        net = build_empty(architecture, drop_path=drop_path_of(architecture, config))
        with torch.device("meta"):
            for size in sorted(sizes, key=height_and_width):
                features = net(torch.empty(2, config.in_chans, *height_and_width(size)))
                if features.ndim != 2:
                    raise ValueError("its features are no vectors")
    except (TypeError, AssertionError, RuntimeError, ValueError, AttributeError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else "it fails"
        if "drop_path_rate" in reason:
            raise UsageError(
                f"{config.arch} has no stochastic depth, and --drop-path is {config.drop_path:g}",
                "use --drop-path 0",
            ) from None
        raise UsageError(
            f"{config.arch} cannot take views of {size_text(size)} px ({reason})",
            "choose other --global-size and --local-size, --local-crops-number 0, or another "
            "--arch",
        ) from None
