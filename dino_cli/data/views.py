"""Renders views with PIL, exactly as the reference's transforms do, from draws made beforehand."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageEnhance, ImageFilter, ImageOps

from dino_cli.data.draws import ViewDraw

__all__ = ["render_view"]

ENHANCERS = {
    "brightness": ImageEnhance.Brightness,
    "contrast": ImageEnhance.Contrast,
    "saturation": ImageEnhance.Color,
}
SOLARIZE_THRESHOLD = 128


def render_view(image: Image.Image, draw: ViewDraw) -> NDArray[np.uint8]:
    """Crop, flip, colour jitter, greyscale, blur, solarise, in that order.

    image: RGB. Returns (size, size, 3) uint8, before normalisation.
    """
    box = (draw.left, draw.top, draw.left + draw.width, draw.top + draw.height)
    # Not `resize(box=…)`: that filter would see pixels outside the crop.
    view = image.crop(box).resize((draw.size, draw.size), Image.Resampling.BICUBIC)
    if draw.flip:
        view = view.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    for name, factor in draw.jitter:
        view = _turn_hue(view, factor) if name == "hue" else ENHANCERS[name](view).enhance(factor)
    if draw.grayscale:
        view = view.convert("L").convert("RGB")
    if draw.sigma > 0:
        view = view.filter(ImageFilter.GaussianBlur(radius=draw.sigma))
    if draw.solarize:
        view = ImageOps.solarize(view, SOLARIZE_THRESHOLD)
    return np.asarray(view)


def _turn_hue(view: Image.Image, factor: float) -> Image.Image:
    """Turn the hue by `factor` of the full circle, in PIL's 8-bit HSV (as torchvision does)."""
    h, s, v = view.convert("HSV").split()
    shift = int(factor * 255) % 256
    h = h.point([(i + shift) % 256 for i in range(256)])
    return Image.merge("HSV", (h, s, v)).convert("RGB")
