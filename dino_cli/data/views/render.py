"""Renders views on a CPU from draws made beforehand, as the reference's PIL transforms do, faster.

Every stage works on bytes and rounds where PIL does. The tests hold each to PIL's result on the
same draw: resampling within 2 grey levels (0.02 on average), brightness, contrast and solarising
exactly, saturation and grey within 1, hue within 4 (0.01 on average), blur within 3 (0.5). The
resampling is torch's, whose kernel for bytes is about four times as fast as PIL's; colours are
OpenCV's tables and conversions, blur its separable filter.
"""

from functools import lru_cache

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from dino_cli.data.views.draws import ViewDraw

__all__ = ["BLUR_PASSES", "blur_box", "box_kernel", "hue_shift", "render_view", "resample"]

Pixels = NDArray[np.uint8]

SOLARIZED = np.array([i if i < 128 else 255 - i for i in range(256)], np.uint8)
BLUR_PASSES = 3  # of a box, PIL's way to a Gaussian

# OpenCV's float HSV (degrees, share, 0 to 255) to PIL's 8 bits and back. PIL cuts off, and so does
# the conversion to bytes that follows; the small terms keep whole numbers from falling short.
TO_BYTES = np.array([[255 / 360, 0, 0, 1e-4], [0, 255, 0, 1e-3], [0, 0, 1, 1e-3]], np.float32)
FROM_BYTES = np.diag([360 / 255, 1 / 255, 1]).astype(np.float32)


def render_view(pixels: Pixels, draw: ViewDraw) -> Pixels:
    """Crop, flip, colour jitter, greyscale, blur, solarise, in that order.

    pixels: RGB, (H, W, 3). Returns (height, width, 3), before normalisation.
    """
    view = resample(pixels, draw)
    if draw.flip:
        view = cv2.flip(view, 1)
    for name, factor in draw.jitter:
        view = JITTER[name](view, factor)
    if draw.grayscale:
        view = _rgb(_luminance(view))
    if draw.sigma > 0:
        box = box_kernel(draw.sigma)
        # One filter of three boxes would be a little faster, and up to 30 levels off at the edges.
        for _ in range(BLUR_PASSES):
            view = cv2.sepFilter2D(view, -1, box, box, borderType=cv2.BORDER_REPLICATE)
    if draw.solarize:
        view = cv2.LUT(view, SOLARIZED)
    return view


def resample(pixels: Pixels, draw: ViewDraw) -> Pixels:
    """The crop of a draw at its size, (height, width, 3): bicubic, antialiased, as PIL's.

    The filter ends at the crop's edge: it sees no pixels outside.
    """
    rows = slice(draw.top, draw.top + draw.height)
    columns = slice(draw.left, draw.left + draw.width)
    # In one piece, colours innermost: what torch's fast kernel takes and gives.
    crop = torch.from_numpy(pixels[rows, columns].copy())[None]
    size, planes = draw.shape, crop.permute(0, 3, 1, 2)
    view = F.interpolate(planes, size, mode="bicubic", antialias=True)
    return np.ascontiguousarray(view[0].permute(1, 2, 0).numpy())


def hue_shift(factor: float) -> int:
    """A hue factor as steps of PIL's 8-bit hue, 0 to 255; torchvision lets it wrap at 256."""
    return int(factor * 255) % 256


def blur_box(sigma: float) -> tuple[int, float]:
    """The box whose threefold application is PIL's Gaussian blur: whole radius, share of the ends.

    The box weighs 1 from -radius to radius and the share on one more pixel at both ends; three of
    it have the variance sigma² (Gwosdek et al., "Theoretical foundations of Gaussian convolution by
    extended box filtering", 2011, equation 3).
    """
    variance = sigma * sigma / BLUR_PASSES
    radius = int((np.sqrt(12 * variance + 1) - 1) / 2)
    share = (2 * radius + 1) * (radius * (radius + 1) - 3 * variance)
    return radius, share / (6 * (variance - (radius + 1) ** 2))


@lru_cache(maxsize=256)
def box_kernel(sigma: float) -> NDArray[np.float32]:
    """The box of a blur in whole 256ths, which OpenCV's filter for bytes would round to anyway."""
    radius, share = blur_box(sigma)
    box = np.array([share, *[1.0] * (2 * radius + 1), share])
    box = np.rint(box * (256 / box.sum())).astype(np.float32)
    box[radius + 1] += 256 - box.sum()  # neither brighter nor darker
    kernel: NDArray[np.float32] = box / np.float32(256)
    return kernel


def _luminance(view: Pixels) -> Pixels:
    grey: Pixels = cv2.cvtColor(view, cv2.COLOR_RGB2GRAY)
    return grey


def _rgb(grey: Pixels) -> Pixels:
    view: Pixels = cv2.cvtColor(grey, cv2.COLOR_GRAY2RGB)
    return view


def _blended(start: int, view: Pixels, factor: float) -> Pixels:
    """start + factor · (view - start), cut off to whole numbers as PIL's blend does."""
    levels = np.float32(start) + np.float32(factor) * (np.arange(256, dtype=np.float32) - start)
    changed: Pixels = cv2.LUT(view, levels.clip(0, 255).astype(np.uint8))
    return changed


def _brightness(view: Pixels, factor: float) -> Pixels:
    return _blended(0, view, factor)


def _contrast(view: Pixels, factor: float) -> Pixels:
    return _blended(int(cv2.mean(_luminance(view))[0] + 0.5), view, factor)


def _saturation(view: Pixels, factor: float) -> Pixels:
    grey = _rgb(_luminance(view))
    # Rounded, where PIL cuts off: hence half a level less.
    changed: Pixels = cv2.addWeighted(view, factor, grey, 1 - factor, -0.499)
    return changed


def _hue(view: Pixels, factor: float) -> Pixels:
    hsv = cv2.cvtColor(view.astype(np.float32), cv2.COLOR_RGB2HSV)
    turned = cv2.transform(hsv, TO_BYTES).astype(np.uint8)
    turned[..., 0] += np.uint8(hue_shift(factor))  # wraps at 256
    hsv = cv2.transform(turned.astype(np.float32), FROM_BYTES)
    changed: Pixels = cv2.convertScaleAbs(cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB))
    return changed


JITTER = {"brightness": _brightness, "contrast": _contrast, "saturation": _saturation, "hue": _hue}
