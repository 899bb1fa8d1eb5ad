"""Renders views of pictures that are no RGB photos: any number of channels, in their own depth.

Crop, flip, brightness, contrast and blur, from the same draws as `data.views.render`, without
rounding and without cutting off. Saturation, hue, grey and solarising are about colours or about
bytes: they are left out.
"""

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from dino_cli.data.views.draws import ViewDraw
from dino_cli.data.views.render import BLUR_PASSES, box_kernel

__all__ = ["render_samples"]

Samples = NDArray[np.float32]

MOST_CHANNELS = 128  # that OpenCV 5 takes at a time; 4 took 512


def render_samples(samples: Samples, draw: ViewDraw) -> Samples:
    """samples: float32 (H, W, C). Returns (height, width, C), before normalisation.

    Brightness multiplies the values; contrast scales their distance from the mean of the view.
    """
    view = _resample(samples, draw)
    if draw.flip:
        view = view[:, ::-1]
    for name, factor in draw.jitter:
        if name == "brightness":
            view = view * np.float32(factor)
        elif name == "contrast":
            mean = view.mean(dtype=np.float64).astype(np.float32)
            view = mean + np.float32(factor) * (view - mean)
    view = np.ascontiguousarray(view)
    if draw.sigma > 0:
        for first in range(0, view.shape[2], MOST_CHANNELS):
            some = slice(first, first + MOST_CHANNELS)
            view[..., some] = _blurred(view[..., some], draw.sigma)
    return view


def _blurred(samples: Samples, sigma: float) -> Samples:
    """At most `MOST_CHANNELS` channels."""
    view, box = np.ascontiguousarray(samples), box_kernel(sigma)
    for _ in range(BLUR_PASSES):
        view = cv2.sepFilter2D(view, -1, box, box, borderType=cv2.BORDER_REPLICATE)
    return view.reshape(samples.shape)  # OpenCV drops a single channel


def _resample(samples: Samples, draw: ViewDraw) -> Samples:
    """Bicubic, antialiased, nothing seen outside the crop: as Pillow in mode F, channel by channel.

    Unlike Pillow's on bytes it may overshoot at edges.
    """
    rows = slice(draw.top, draw.top + draw.height)
    columns = slice(draw.left, draw.left + draw.width)
    crop = torch.from_numpy(samples[rows, columns].transpose(2, 0, 1).copy())[None]
    view = F.interpolate(crop, draw.shape, mode="bicubic", antialias=True)
    resampled: Samples = view[0].permute(1, 2, 0).numpy()
    return resampled
