"""The preprocessing that published models bring, as our `Preprocessing`."""

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from dino_cli.config.shared import IMAGENET_MEAN, IMAGENET_STD, Preprocessing
from dino_cli.core.network.architecture import Architecture, VitArchitecture
from dino_cli.errors import TaskError

__all__ = [
    "MOST",
    "default_for",
    "from_huggingface",
    "from_timm",
    "preprocessing_from_json",
]

INTERPOLATIONS = ("bicubic", "bilinear", "lanczos", "nearest")
MOST = 2**16  # pixels of a side: no picture is larger than what JPEG can hold


def default_for(architecture: Architecture) -> Preprocessing:
    """The reference's, with the crop cut to whole patches and one mean and std per channel."""
    p = Preprocessing()
    if isinstance(architecture, VitArchitecture):
        patch_size = architecture.patch_size
        p = replace(p, crop=max(224 - 224 % patch_size, patch_size))
    if architecture.in_chans != 3:
        grey = sum(IMAGENET_MEAN) / 3, sum(IMAGENET_STD) / 3
        p = replace(
            p, mean=(grey[0],) * architecture.in_chans, std=(grey[1],) * architecture.in_chans
        )
    return p


def preprocessing_from_json(values: Mapping[str, Any]) -> Preprocessing:
    """Of a header, a config.json or a feats.json, whoever made that.

    Raises `TypeError`, `ValueError` or `AttributeError` for what no command has written.
    """
    arguments: dict[str, Any] = {
        key: tuple(value) if isinstance(value, list) else value for key, value in values.items()
    }
    return _possible(Preprocessing(**arguments))


def _possible(p: Preprocessing) -> Preprocessing:
    """Raises `ValueError` for sizes and numbers that cannot be meant."""
    sides: list[Any] = [p.multiple]
    for size in (p.resize, p.crop):
        if isinstance(size, tuple):
            height, width = size
            sides += [height, width]
        elif size is not None:
            sides.append(size)
    good = (
        all(type(side) is int and 0 < side <= MOST for side in sides)
        and p.interpolation in INTERPOLATIONS
        and isinstance(p.exif, bool)
        and isinstance(p.own_depth, bool)
        and isinstance(p.mean, tuple)
        and isinstance(p.std, tuple)
        and len(p.mean) == len(p.std) > 0
        and all(isinstance(x, int | float) and math.isfinite(x) for x in (*p.mean, *p.std))
        and min(p.std) > 0
    )
    if not good:
        raise ValueError(f"no preprocessing: {p}")
    return p


def from_timm(config: Mapping[str, Any]) -> Preprocessing:
    """Of timm's `pretrained_cfg`: the evaluation transform of timm. Raises `TaskError`."""
    try:
        side = int(config["input_size"][-1])
        whole = config.get("crop_mode", "center") == "squash"
        resize = math.floor(side / float(config["crop_pct"]))
        interpolation = str(config.get("interpolation", "bicubic"))
        p = Preprocessing(
            resize=(side, side) if whole else resize,
            crop=None if whole else side,
            interpolation=interpolation if interpolation in INTERPOLATIONS else "bicubic",  # type: ignore[arg-type]
            mean=tuple(float(value) for value in config["mean"]),
            std=tuple(float(value) for value in config["std"]),
        )
        return _possible(p)
    except (KeyError, TypeError, ValueError, IndexError, ArithmeticError):
        raise TaskError(
            "its timm configuration does not tell the preprocessing", "use another model"
        ) from None


def from_huggingface(
    config: Mapping[str, Any], values: Mapping[str, Any], default: Preprocessing
) -> Preprocessing:
    """Of `preprocessor_config.json`: mean and std always, resize and crop where it crops.

    Those of DINO v1 stretch the picture to a square without a crop, which is not how DINO was
    evaluated; they get the reference's resize and crop. DINOv3 was made for the stretch. Raises
    `TaskError` for impossible ones.
    """
    try:
        return _possible(_of_huggingface(config, values, default))
    except (ValueError, TypeError, OverflowError):
        raise TaskError(
            "its preprocessor_config.json tells sizes or numbers that no picture has",
            "use another model",
        ) from None


def _of_huggingface(
    config: Mapping[str, Any], values: Mapping[str, Any], default: Preprocessing
) -> Preprocessing:
    p = default
    mean, std = values.get("image_mean"), values.get("image_std")
    if _numbers(mean, len(p.mean)) and _numbers(std, len(p.std)):
        p = replace(p, mean=tuple(mean), std=tuple(std))  # type: ignore[arg-type]
    size, crop = values.get("size"), values.get("crop_size")
    if not isinstance(size, dict):
        return p
    short = size.get("shortest_edge")
    if isinstance(short, int) and short > 0:
        side = crop.get("height") if isinstance(crop, dict) else None
        cropped = values.get("do_center_crop", False) and isinstance(side, int) and side > 0
        return replace(p, resize=short, crop=side) if cropped else p
    height, width = size.get("height"), size.get("width")
    if config.get("model_type") == "dinov3_vit" and isinstance(height, int):
        return replace(p, resize=(height, int(width or height)), crop=None)
    return p


def _numbers(values: Any, count: int) -> bool:
    return (
        isinstance(values, list)
        and len(values) == count
        and all(isinstance(value, int | float) for value in values)
    )
