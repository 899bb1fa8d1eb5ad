"""Label maps in picture files: which object each pixel belongs to."""

import warnings
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dino_cli.core.evaluation.overlaps import VOID
from dino_cli.data.decoding.decode import UnreadableImage
from dino_cli.data.decoding.pixel_limit import refuse_too_large, too_large
from dino_cli.data.listing.formats import image_formats

__all__ = ["read_label_map", "resize_labels"]

BACKGROUND = 0
VOID_COLOUR = (224, 224, 192)  # of the VOC palette
MOST_LABELS = 64  # more different greys are no labels, but a soft mask


def read_label_map(path: Path) -> NDArray[np.uint8]:
    """The labels of a picture: uint8 (H, W), 0 background, 255 void.

    A palette's indices and few greys are taken as they are; black and white, bool, alpha-like or
    many greys are one object, 1, where they are bright; each colour of an RGB picture is an
    object, black the background, VOC's cream void. Raises `UnreadableImage`; emits no warning.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path, formats=image_formats()) as image:
                refuse_too_large(image)
                image.load()
                return _labels(image)
    except UnreadableImage:
        raise
    except FileNotFoundError:
        raise UnreadableImage("no such file") from None
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise UnreadableImage(too_large()) from error
    except Exception as error:  # decoders raise anything at all on broken files
        raise UnreadableImage(" ".join(str(error).split())[:200] or "damaged") from error


def _labels(image: Image.Image) -> NDArray[np.uint8]:
    if image.mode == "P":
        return np.array(image, np.uint8)
    if image.mode in ("RGBA", "LA", "PA"):
        image = image.convert("RGB")
    values = np.asarray(image)
    if values.ndim == 2:
        return _grey(values)
    if values.shape[2] != 3:
        raise UnreadableImage(f"a picture of mode {image.mode} is not a label map")
    if (values[..., 0] == values[..., 1]).all() and (values[..., 1] == values[..., 2]).all():
        return _grey(values[..., 0])
    return _colours(values)


def _grey(values: NDArray[Any]) -> NDArray[np.uint8]:
    if values.dtype == bool:
        return values.astype(np.uint8)
    different = np.unique(values)
    low, high = float(different[0]), float(different[-1])
    if len(different) > MOST_LABELS or set(different.tolist()) <= {BACKGROUND, VOID}:
        bright: NDArray[np.uint8] = (values > (127 if high < 256 else 32767)).astype(np.uint8)
        return bright
    if low < 0 or high > VOID:
        raise UnreadableImage(f"labels from {low:g} to {high:g}, not 0 to 255")
    return values.astype(np.uint8)


def _colours(values: NDArray[np.uint8]) -> NDArray[np.uint8]:
    packed = values.astype(np.int32) @ np.array([1 << 16, 1 << 8, 1], np.int32)
    colours, place = np.unique(packed, return_inverse=True)
    if len(colours) > MOST_LABELS:
        raise UnreadableImage(f"{len(colours)} different colours are no label map")
    r, g, b = VOID_COLOUR
    numbers = np.arange(1, len(colours) + 1, dtype=np.uint8)
    numbers[colours == 0] = BACKGROUND
    numbers[colours == (r << 16) + (g << 8) + b] = VOID
    return numbers[place].reshape(packed.shape)


def resize_labels(labels: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """Nearest neighbour to (height, width), by pixel centres as Pillow does it."""
    if labels.shape == size:
        return labels
    image = Image.fromarray(labels).resize(size[::-1], Image.Resampling.NEAREST)
    return np.array(image)
