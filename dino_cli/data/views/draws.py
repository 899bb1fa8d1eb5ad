"""Everything random about a view, as one record drawn from (seed, epoch, image, view).

The renderers only consume these records. So a run does not depend on workers, ranks or
interruptions, and renderers can be compared on the same draw.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["SIGMA", "ViewDraw", "ViewSpec", "draw_view", "epoch_order", "uniforms"]

ATTEMPTS = 10  # of RandomResizedCrop, before it falls back to a central crop
RATIO = (3 / 4, 4 / 3)
SIGMA = (0.1, 2.0)

# Columns of the table of uniform numbers, one row per view.
AREA = slice(0, ATTEMPTS)
SHAPE = slice(ATTEMPTS, 2 * ATTEMPTS)
TOP, LEFT, FLIP, JITTER, GRAY, BLUR, BLUR_SIGMA, SOLARIZE = range(2 * ATTEMPTS, 2 * ATTEMPTS + 8)
FACTORS = slice(2 * ATTEMPTS + 8, 2 * ATTEMPTS + 12)
ORDER = slice(2 * ATTEMPTS + 12, 2 * ATTEMPTS + 16)
COLUMNS = 2 * ATTEMPTS + 16


@dataclass(frozen=True, kw_only=True)
class ViewSpec:
    """The distribution of one view (paper, section 3.2 "Implementation details", after BYOL).

    size: side in pixels, or (height, width). scale: range of the crop's share of the picture's
    area. jitter: strengths of brightness, contrast, saturation, hue. The rest are probabilities.
    """

    size: int | tuple[int, int]
    scale: tuple[float, float]
    jitter: tuple[float, float, float, float]
    jitter_prob: float
    grayscale_prob: float
    blur_prob: float
    solarize_prob: float
    flip_prob: float = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class ViewDraw:
    """One view, decided. The stages apply in the order of the fields.

    top, left, height, width: the crop in pixels of the picture; resized to `size` (bicubic).
    jitter: the colour operations in their random order, as (name, factor); empty: none.
    sigma: radius of the Gaussian blur in pixels; 0: none.
    """

    size: int | tuple[int, int]
    top: int
    left: int
    height: int
    width: int
    flip: bool
    jitter: tuple[tuple[str, float], ...]
    grayscale: bool
    sigma: float
    solarize: bool

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width of the view in pixels."""
        return self.size if isinstance(self.size, tuple) else (self.size, self.size)


def epoch_order(images: int, seed: int, epoch: int) -> NDArray[np.int64]:
    """The order of the images in an epoch, a permutation from (seed, epoch)."""
    return np.random.default_rng((seed, epoch)).permutation(images)


def uniforms(seed: int, epoch: int, image: int, views: int) -> NDArray[np.float64]:
    """Uniform numbers in [0, 1) for all views of one image in one epoch, (views, COLUMNS).

    Row v depends on (seed, epoch, image, v) alone, not on the number of views.
    """
    key = np.random.SeedSequence((seed, epoch, image))
    return np.random.Generator(np.random.Philox(key)).random((views, COLUMNS))


def draw_view(spec: ViewSpec, u: NDArray[np.float64], height: int, width: int) -> ViewDraw:
    """Turn one row of uniform numbers into a view of a picture of height × width pixels."""
    aspect = spec.size[1] / spec.size[0] if isinstance(spec.size, tuple) else 1.0
    top, left, h, w = _crop(spec.scale, aspect, u, height, width)
    jitter: tuple[tuple[str, float], ...] = ()
    if u[JITTER] < spec.jitter_prob:
        names = ("brightness", "contrast", "saturation", "hue")
        operations = []
        for name, strength, x in zip(names, spec.jitter, u[FACTORS], strict=True):
            if strength == 0:
                continue
            low, high = (
                (-strength, strength) if name == "hue" else (max(0.0, 1 - strength), 1 + strength)
            )
            operations.append((name, float(low + (high - low) * x)))
        order = np.argsort(u[ORDER][: len(operations)])
        jitter = tuple(operations[i] for i in order)
    blur = u[BLUR] < spec.blur_prob
    return ViewDraw(
        size=spec.size,
        top=top,
        left=left,
        height=h,
        width=w,
        flip=bool(u[FLIP] < spec.flip_prob),
        jitter=jitter,
        grayscale=bool(u[GRAY] < spec.grayscale_prob),
        sigma=float(SIGMA[0] + (SIGMA[1] - SIGMA[0]) * u[BLUR_SIGMA]) if blur else 0.0,
        solarize=bool(u[SOLARIZE] < spec.solarize_prob),
    )


def _crop(
    scale: tuple[float, float], aspect: float, u: NDArray[np.float64], height: int, width: int
) -> tuple[int, int, int, int]:
    """torchvision's RandomResizedCrop: (top, left, height, width).

    aspect: width by height of the view. The crop's own is 3/4 to 4/3 of that, so that a rectangular
    view distorts no more than a square one.
    """
    log_low, log_high = math.log(RATIO[0]), math.log(RATIO[1])
    for area_u, shape_u in zip(u[AREA].tolist(), u[SHAPE].tolist(), strict=True):
        area = height * width * (scale[0] + (scale[1] - scale[0]) * area_u)
        ratio = aspect * math.exp(log_low + (log_high - log_low) * shape_u)
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            return int(u[TOP] * (height - h + 1)), int(u[LEFT] * (width - w + 1)), h, w
    w, h = width, height
    if width / height < RATIO[0] * aspect:
        h = max(1, round(width / (RATIO[0] * aspect)))
    elif width / height > RATIO[1] * aspect:
        w = max(1, round(height * (RATIO[1] * aspect)))
    return (height - h) // 2, (width - w) // 2, h, w
