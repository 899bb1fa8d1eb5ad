"""Views by PIL, operation for operation as the original's torchvision transforms: an oracle."""

import numpy as np
from PIL import Image, ImageEnhance, ImageFilter, ImageOps

from dino_cli.data.views.draws import ViewSpec

ENHANCERS = {
    "brightness": ImageEnhance.Brightness,
    "contrast": ImageEnhance.Contrast,
    "saturation": ImageEnhance.Color,
}

SPEC = ViewSpec(
    size=32,
    scale=(0.2, 0.8),
    jitter=(0.4, 0.4, 0.2, 0.1),
    jitter_prob=0.8,
    grayscale_prob=0.2,
    blur_prob=0.5,
    solarize_prob=0.2,
)


def pil_view(image, draw):
    """Crop, flip, colour jitter, greyscale, blur, solarise: uint8 (size, size, 3)."""
    box = (draw.left, draw.top, draw.left + draw.width, draw.top + draw.height)
    # Not `resize(box=…)`: that filter would see pixels outside the crop.
    view = image.crop(box).resize(draw.shape[::-1], Image.Resampling.BICUBIC)
    if draw.flip:
        view = view.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    for name, factor in draw.jitter:
        view = turn_hue(view, factor) if name == "hue" else ENHANCERS[name](view).enhance(factor)
    if draw.grayscale:
        view = view.convert("L").convert("RGB")
    if draw.sigma > 0:
        view = view.filter(ImageFilter.GaussianBlur(radius=draw.sigma))
    if draw.solarize:
        view = ImageOps.solarize(view, 128)
    return np.asarray(view)


def turn_hue(view, factor):
    """Turn the hue by `factor` of the full circle, in PIL's 8-bit HSV (as torchvision does)."""
    h, s, v = view.convert("HSV").split()
    shift = int(factor * 255) % 256
    h = h.point([(i + shift) % 256 for i in range(256)])
    return Image.merge("HSV", (h, s, v)).convert("RGB")
