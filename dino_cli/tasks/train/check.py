"""What no run of `dino train` could have, said before anything is touched."""

import math
from dataclasses import fields
from typing import Any

import torch

from dino_cli.config.setting import Size, height_and_width, size_text
from dino_cli.config.shared import IMAGENET_MEAN, IMAGENET_STD
from dino_cli.config.train import TrainConfig
from dino_cli.core.network.architecture import VIT_SIZES, Architecture, VitArchitecture
from dino_cli.core.network.backbone import build
from dino_cli.errors import UsageError
from dino_cli.tasks.train.setup import drop_path_of

__all__ = ["check", "check_views"]

YEAR = 365 * 24 * 60  # minutes


def check(config: TrainConfig) -> None:
    """Raise `UsageError` for values that no run could have, before anything is touched."""
    for field in fields(config):
        value = getattr(config, field.name)
        numbers = value if isinstance(value, tuple) else (value,)
        finite = all(math.isfinite(x) for x in numbers if isinstance(x, float))
        _require(finite, config, field.name, "must be finite")
    positive: tuple[str, ...] = (
        "batch_size",
        "accumulate",
        "epochs",
        "out_dim",
    )
    positive += (
        "eval_every",
        "keep",
        "patch_size",
        "head_hidden",
        "head_bottleneck",
        "log_every",
        "in_chans",
    )
    for name in positive:
        _require(getattr(config, name) > 0, config, name, "must be at least 1")
    for name in ("max_steps", "save_every", "width", "depth", "heads"):
        value = getattr(config, name)
        _require(value is None or value > 0, config, name, "must be at least 1")
    for name in ("lr", "teacher_temp", "warmup_teacher_temp"):
        _require(getattr(config, name) > 0, config, name, "must be positive")
    for name in (
        "min_lr",
        "clip_grad",
        "weight_decay",
        "weight_decay_end",
        "koleo_weight",
        "workers",
        "keep_every",
        "freeze_last_layer",
        "watch",
    ):
        _require(getattr(config, name) >= 0, config, name, "must not be negative")
    shares = ("momentum_teacher", "center_momentum", "jitter_prob", "grayscale_prob")
    for name in (*shares, "solarize_prob", "augment_ramp", "final_share", "max_unreadable"):
        _require(0 <= getattr(config, name) <= 1, config, name, "must be between 0 and 1")
    for name in ("global_size", "local_size"):
        sides = height_and_width(getattr(config, name))
        _require(min(sides) > 0, config, name, "must be at least 1")
    for name, default in (("mean", IMAGENET_MEAN), ("std", IMAGENET_STD)):
        given = getattr(config, name)
        fits = given == default or len(given) in (1, config.in_chans)
        _require(fits, config, name, f"must be {config.in_chans} numbers (--in-chans), or one")
    if config.in_chans != 3 and config.views == "gpu":
        raise UsageError(
            f"--views gpu makes views of RGB photos, not of {config.in_chans} channels",
            "leave it out: the processes that load images make them",
        )
    if config.final_size and isinstance(config.global_size, tuple):
        raise UsageError(
            f"--final-size gives sides of squares, and --global-size is "
            f"{size_text(config.global_size)}",
            "leave one of them out",
        )
    _require(0 <= config.drop_path < 1, config, "drop_path", "must be in [0, 1)")
    _require(all(0 <= p <= 1 for p in config.blur_prob), config, "blur_prob", "are probabilities")
    _require(min(config.jitter) >= 0, config, "jitter", "must not be negative")
    _require(0 <= config.jitter[3] <= 0.5, config, "jitter", "has a hue outside [0, 0.5]")
    _require(config.local_crops_number >= 0, config, "local_crops_number", "must not be negative")
    for name in ("global_crops_scale", "local_crops_scale"):
        low, high = getattr(config, name)
        _require(0 < low <= high <= 1, config, name, "must be two shares, 0 < low <= high <= 1")
    if config.koleo_weight and config.batch_size < 2:
        raise UsageError(
            f"--koleo-weight {config.koleo_weight:g} compares the images of a batch, and "
            f"--batch-size is {config.batch_size}",
            "use at least 2, or leave --koleo-weight out",
        )
    start = config.augment_start
    _require(min(start) >= 0, config, "augment_start", "must not be negative")
    _require(start[3] <= 0.5, config, "augment_start", "has a hue outside [0, 0.5]")
    _require(max(start[4:]) <= 1, config, "augment_start", "ends in two probabilities")
    _require(0 <= config.seed < 2**63, config, "seed", "must not be negative, nor above 2^63 - 1")
    _require(0 < config.timeout <= YEAR, config, "timeout", "must be positive, at most a year")
    _require(all(s > 0 for s in config.std), config, "std", "must be positive")
    if config.final_size is not None:
        _require(min(config.final_size) > 0, config, "final_size", "must be positive")
    warmup = config.warmup_epochs
    if warmup is not None and not 0 <= warmup <= config.epochs:
        raise UsageError(
            f"--warmup-epochs {warmup:g} is longer than the run of {config.epochs} epochs",
            "shorten it or raise --epochs",
        )
    if not 0 <= config.warmup_teacher_temp_epochs <= config.epochs:
        raise UsageError(
            f"--warmup-teacher-temp-epochs {config.warmup_teacher_temp_epochs} is longer than the "
            f"run of {config.epochs} epochs",
            "shorten it or raise --epochs",
        )
    if config.arch in VIT_SIZES:
        sizes = [
            (name, side)
            for name in ("global_size", "local_size")
            for side in height_and_width(getattr(config, name))
        ]
        sizes += [("final_size", side) for side in config.final_size or ()]
        for name, side in sizes:
            if side % config.patch_size:
                raise UsageError(
                    f"--{name.replace('_', '-')} {side} is not a whole number of "
                    f"{config.patch_size}-pixel patches",
                    f"use {max(1, side // config.patch_size) * config.patch_size}",
                )


def _require(good: bool, config: TrainConfig, name: str, rule: str) -> None:
    if not good:
        value = getattr(config, name)
        numbers = value if isinstance(value, tuple) else (value,)
        shown = " ".join(f"{x:g}" if isinstance(x, float) else str(x) for x in numbers)
        raise UsageError(f"--{name.replace('_', '-')} {shown} {rule}", "see dino train --help")


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
    with torch.device("meta"):
        net: Any = build(architecture)
        features = net.forward_features(torch.empty(2, config.in_chans, height, width))
    return tuple(features.shape[1:])


def _check_timm(architecture: Architecture, config: TrainConfig) -> None:
    sizes = {config.global_size, *(config.final_size or ())}
    if config.local_crops_number:
        sizes.add(config.local_size)
    size: Size = config.global_size
    try:
        with torch.device("meta"):
            net = build(architecture, drop_path=drop_path_of(architecture, config))
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
