"""From pixels to the model's input, as `Preprocessing` says.

Resize, centre crop and normalisation equal torchvision's `Resize`, `CenterCrop`, `ToTensor` and
`Normalize` on PIL images, which the original evaluates with; resampling is Pillow's, antialiased.
"""

from collections.abc import Callable
from functools import cache, partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from dino_cli.config.shared import Preprocessing
from dino_cli.data.decoding.own_depth import LUMINANCE, fitted, scaled
from dino_cli.errors import UsageError

__all__ = ["FILTERS", "build_transform", "normalize", "resized_size", "thumbnail_transform"]

Picture = Image.Image | NDArray[np.float32]
FILTERS = {
    "bicubic": Image.Resampling.BICUBIC,
    "bilinear": Image.Resampling.BILINEAR,
    "lanczos": Image.Resampling.LANCZOS,
    "nearest": Image.Resampling.NEAREST,
}
# A strip of 1 x 100000 pixels resized to a short side of 256 would take 19 GB. Above this many
# pixels only the middle, which the crop keeps, is computed.
MOST_PIXELS = 64_000_000


def build_transform(p: Preprocessing) -> Callable[[Picture], NDArray[Any]]:
    """RGB picture → uint8 (H, W, 3), before normalisation; picklable.

    With `own_depth`: samples (H, W, C) in float32 → the same, resized. An RGB picture stands there
    for its samples, when the model takes three channels, or one (luminance).

    The result raises `ValueError` for a picture that has no whole patch, or would become too large.
    """
    return partial(_transform, p)


def thumbnail_transform(side: int, least: int) -> Callable[[Image.Image], NDArray[np.uint8]]:
    """RGB picture → uint8 (H, W, 3), the long side at most `side` pixels; picklable.

    Pillow's own thumbnail by Lanczos, aspect kept; a smaller picture stays as it is. The result
    raises `ValueError` where a side would be below `least` pixels.
    """
    return partial(_thumbnail, side, least)


def normalize(images: Tensor, p: Preprocessing, device: torch.device) -> Tensor:
    """uint8 (B, 3, H, W) → float32 on `device`: x / 255, minus the mean, over the deviation.

    With one mean the model takes grey images, (B, 1, H, W): the luminance of ITU-R 601. float32
    (B, C, H, W) is in units of the full scale already, and is not divided. Raises `UsageError`
    where there are more channels than the model takes, or fewer.
    """
    # Moved as bytes: a quarter of the traffic.
    x = images.to(device, non_blocking=True)
    x = x.clone() if x.is_floating_point() else x.to(torch.float32).div_(255)
    if len(p.mean) != x.shape[1] and (len(p.mean), x.shape[1]) != (1, 3):
        raise UsageError(
            f"the model takes images of {len(p.mean)} channels, and these have {x.shape[1]}",
            "use a model of so many channels",
        )
    if len(p.mean) < x.shape[1]:
        x = (x * _on_device(LUMINANCE, device)).sum(dim=1, keepdim=True)
    mean, std = _on_device(p.mean, device), _on_device(p.std, device)
    return x.sub_(mean).div_(std)


@cache
def _on_device(values: tuple[float, ...], device: torch.device) -> Tensor:
    """Per channel, (C, 1, 1); kept, because each copy to a GPU would wait for its queue."""
    return torch.tensor(values, device=device).view(-1, 1, 1)


def _transform(p: Preprocessing, image: Picture) -> NDArray[Any]:
    if p.own_depth:
        samples = image if isinstance(image, np.ndarray) else scaled(np.asarray(image))
        planes = np.moveaxis(fitted(samples, len(p.mean)), -1, 0)
        shaped = [_shaped(p, Image.fromarray(np.ascontiguousarray(plane))) for plane in planes]
        return np.stack(shaped, axis=-1)
    assert isinstance(image, Image.Image)
    return _shaped(p, image)


def _shaped(p: Preprocessing, image: Image.Image) -> NDArray[Any]:
    """Resized, cropped, trimmed; uint8 in RGB or float32 of one channel."""
    if p.resize is not None:
        image = _resized(image, p)
    if p.cut is not None:
        image = _centre(image, p.cut)
    if p.multiple > 1:
        w, h = (side // p.multiple * p.multiple for side in image.size)
        if not w or not h:
            raise ValueError(
                f"{image.width} x {image.height} pixels is smaller than one patch of {p.multiple}"
            )
        image = image.crop((0, 0, w, h))
    return np.array(image)  # a copy: Pillow's own memory is read-only


def _thumbnail(side: int, least: int, image: Image.Image) -> NDArray[np.uint8]:
    image = image.copy()  # `thumbnail` works in place
    image.thumbnail((side, side), Image.Resampling.LANCZOS)
    if min(image.size) < least:
        raise ValueError(f"{image.width} x {image.height} pixels, with sides below {least}")
    return np.array(image)


def resized_size(w: int, h: int, p: Preprocessing) -> tuple[int, int]:
    """Width and height of a picture of w × h pixels after the resize, before any crop."""
    if p.resize is None:
        return w, h
    if not isinstance(p.resize, int):
        return p.resize[1], p.resize[0]
    if isinstance(p.crop, tuple):
        return _covering(w, h, p.resize, p.crop)
    # torchvision's rounding: the long side is cut to a whole number, not rounded.
    long = int(p.resize * max(w, h) / min(w, h))
    return (p.resize, long) if w <= h else (long, p.resize)


def _resized(image: Image.Image, p: Preprocessing) -> Image.Image:
    size = resized_size(*image.size, p)
    if size == image.size:
        return image
    box: tuple[float, float, float, float] | None = None
    if size[0] * size[1] > MOST_PIXELS:
        if p.cut is None:
            raise ValueError(f"would become {size[0]} x {size[1]} pixels after resizing")
        size, box = _middle(image.size, size, p.cut)
    return image.resize(size, FILTERS[p.interpolation], box=box)


def _covering(w: int, h: int, short: int, crop: tuple[int, int]) -> tuple[int, int]:
    """Width and height that just cover a rectangle of the crop's shape, `short` its short side."""
    high, wide = (round(short * side / min(crop)) for side in crop)
    if high * w >= wide * h:
        return max(int(w * high / h), crop[1]), high
    return wide, max(int(h * wide / w), crop[0])


def _middle(
    old: tuple[int, int], new: tuple[int, int], cut: tuple[int, int]
) -> tuple[tuple[int, int], tuple[float, float, float, float]]:
    """The central part of a resize that a centre crop keeps: its size, its box in the source."""
    starts, ends, sides = [], [], []
    for before, after, most in zip(old, new, cut[::-1], strict=True):
        side = min(most, after)
        start = round((after - side) / 2)
        starts.append(start * before / after)
        ends.append((start + side) * before / after)
        sides.append(side)
    return (sides[0], sides[1]), (starts[0], starts[1], ends[0], ends[1])


def _centre(image: Image.Image, crop: tuple[int, int]) -> Image.Image:
    """The centred (height, width); what lies beyond the picture is black, as in torchvision.

    torchvision first pads a short side (the odd pixel at the right or bottom), then crops at
    round((side - crop) / 2), halves to even.
    """
    height, width = crop
    left, top = (
        -((kept - side) // 2) if side < kept else round((side - kept) / 2)
        for side, kept in zip(image.size, (width, height), strict=True)
    )
    # PIL fills with black outside the picture.
    return image.crop((left, top, left + width, top + height))
