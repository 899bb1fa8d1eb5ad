"""From pixels to the model's input, as `Preprocessing` says.

Resize, centre crop and normalisation equal torchvision's `Resize`, `CenterCrop`, `ToTensor` and
`Normalize` on PIL images, which the original evaluates with; resampling is Pillow's, antialiased.
"""

from collections.abc import Callable
from functools import cache, partial

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from dino_cli.config.shared import Preprocessing
from dino_cli.errors import UsageError

__all__ = ["build_transform", "normalize", "thumbnail_transform"]

LUMINANCE = (0.299, 0.587, 0.114)  # ITU-R 601, as Pillow's mode L
FILTERS = {
    "bicubic": Image.Resampling.BICUBIC,
    "bilinear": Image.Resampling.BILINEAR,
    "lanczos": Image.Resampling.LANCZOS,
    "nearest": Image.Resampling.NEAREST,
}
# A strip of 1 x 100000 pixels resized to a short side of 256 would take 19 GB. Above this many
# pixels only the middle, which the crop keeps, is computed.
MOST_PIXELS = 64_000_000


def build_transform(p: Preprocessing) -> Callable[[Image.Image], NDArray[np.uint8]]:
    """RGB picture → uint8 (H, W, 3), before normalisation; picklable.

    The result raises `ValueError` for a picture that has no whole patch, or would become too large.
    """
    return partial(_transform, p)


def thumbnail_transform(side: int, least: int = 1) -> Callable[[Image.Image], NDArray[np.uint8]]:
    """RGB picture → uint8 (H, W, 3), the long side at most `side` pixels; picklable.

    Pillow's own thumbnail by Lanczos, aspect kept; a smaller picture stays as it is. The result
    raises `ValueError` where a side would be below `least` pixels.
    """
    return partial(_thumbnail, side, least)


def normalize(images: Tensor, p: Preprocessing, device: torch.device) -> Tensor:
    """uint8 (B, 3, H, W) → float32 on `device`: x / 255, minus the mean, over the deviation.

    With one mean the model takes grey images, (B, 1, H, W): the luminance of ITU-R 601. Raises
    `UsageError` for a model of other channels.
    """
    if len(p.mean) not in (1, 3):
        raise UsageError(
            f"the model takes images of {len(p.mean)} channels", "use one of 3 channels, or of 1"
        )
    # Moved as bytes: a quarter of the traffic.
    x = images.to(device, non_blocking=True).to(torch.float32).div_(255)
    if len(p.mean) == 1:
        x = (x * _on_device(LUMINANCE, device)).sum(dim=1, keepdim=True)
    mean, std = _on_device(p.mean, device), _on_device(p.std, device)
    return x.sub_(mean).div_(std)


@cache
def _on_device(values: tuple[float, ...], device: torch.device) -> Tensor:
    """Per channel, (C, 1, 1); kept, because each copy to a GPU would wait for its queue."""
    return torch.tensor(values, device=device).view(-1, 1, 1)


def _transform(p: Preprocessing, image: Image.Image) -> NDArray[np.uint8]:
    if p.resize is not None:
        image = _resized(image, p)
    if p.crop is not None:
        image = _centre(image, p.crop)
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


def _resized(image: Image.Image, p: Preprocessing) -> Image.Image:
    if isinstance(p.resize, int):
        # torchvision's rounding: the long side is cut to a whole number, not rounded.
        w, h = image.size
        long = int(p.resize * max(w, h) / min(w, h))
        size = (p.resize, long) if w <= h else (long, p.resize)
    else:
        assert p.resize is not None
        size = (p.resize[1], p.resize[0])
    if size == image.size:
        return image
    box: tuple[float, float, float, float] | None = None
    if size[0] * size[1] > MOST_PIXELS:
        if p.crop is None:
            raise ValueError(f"would become {size[0]} x {size[1]} pixels after resizing")
        size, box = _middle(image.size, size, p.crop)
    return image.resize(size, FILTERS[p.interpolation], box=box)


def _middle(
    old: tuple[int, int], new: tuple[int, int], crop: int
) -> tuple[tuple[int, int], tuple[float, float, float, float]]:
    """The central part of a resize that a centre crop keeps: its size, its box in the source."""
    starts, ends, sides = [], [], []
    for before, after in zip(old, new, strict=True):
        side = min(crop, after)
        start = round((after - side) / 2)
        starts.append(start * before / after)
        ends.append((start + side) * before / after)
        sides.append(side)
    return (sides[0], sides[1]), (starts[0], starts[1], ends[0], ends[1])


def _centre(image: Image.Image, crop: int) -> Image.Image:
    """The centred square; what lies beyond the picture is black, as in torchvision.

    torchvision first pads a short side (the odd pixel at the right or bottom), then crops at
    round((side - crop) / 2), halves to even.
    """
    offsets = [
        -((crop - side) // 2) if side < crop else round((side - crop) / 2) for side in image.size
    ]
    left, top = offsets
    # PIL fills with black outside the picture.
    return image.crop((left, top, left + crop, top + crop))
