"""Pictures as arrays of their own type: `.npy` files, and what Pillow has no mode for."""

import logging
from importlib.util import find_spec
from io import BytesIO
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dino_cli.data.decoding.pixel_limit import most_pixels, too_large

__all__ = ["ARRAY_SUFFIX", "read_npy", "read_png", "read_tiff", "upright"]

ARRAY_SUFFIX = ".npy"
ALPHA = ((1,), (2,))  # extra samples of a TIFF: one, premultiplied or not
NO_TIFFFILE = (
    "TIFFs of several bands, or of more than 8 bits in colour, need the package tifffile "
    "(pip install 'dino-cli[tiff]')"
)


def read_npy(source: Path | BytesIO) -> NDArray[Any]:
    """A NumPy file of shape (H, W) or (H, W, C), real numbers. Runs no pickle.

    Raises `ValueError` for anything else.
    """
    try:
        mode: Any = "r" if isinstance(source, Path) else None
        mapped = np.load(source, mmap_mode=mode, allow_pickle=False)
    except (EOFError, SyntaxError, ValueError) as error:
        raise ValueError("damaged, or no NumPy file of numbers") from error
    if not isinstance(mapped, np.ndarray) or mapped.dtype.kind not in "buif":
        raise ValueError("no array of real numbers")
    return np.array(_picture(mapped))


def read_tiff(source: Path | BytesIO, channels: int | None) -> NDArray[Any]:
    """A TIFF of any sample type: (H, W) or (H, W, C), upright.

    Bands may lie side by side, in planes or in pages of one shape. What the file calls alpha is
    dropped unless there are as many as `channels` with it. Raises `ValueError` for what is no such
    picture, and without tifffile.
    """
    if not find_spec("tifffile"):
        raise ValueError(NO_TIFFFILE)
    import tifffile

    logging.getLogger("tifffile").setLevel(logging.CRITICAL)  # the exception says it
    with tifffile.TiffFile(source) as file:
        series = file.series[0]
        kept = [i for i, length in enumerate(series.shape) if length > 1 or series.axes[i] in "YX"]
        axes = "".join(series.axes[i] for i in kept)
        if np.prod(series.shape, dtype=object) > _most_samples(axes, series.shape, kept):
            raise ValueError(too_large())
        values = np.asarray(series.asarray()).reshape([series.shape[i] for i in kept])
        tag = file.pages.first.tags.get("Orientation")
        orientation = int(tag.value) if tag is not None else 1
        alpha = file.pages.first.extrasamples in ALPHA
    if axes.count("Y") != 1 or axes.count("X") != 1 or len(axes) > 3:
        raise ValueError(f"axes {axes!r} are no rows, columns and channels")
    if len(axes) == 3:
        channel = next(i for i, axis in enumerate(axes) if axis not in "YX")
        values = np.moveaxis(values, channel, -1)
        if alpha and channels != values.shape[2]:
            values = values[..., :-1]
    return upright(_picture(values), orientation)


def read_png(content: bytes, orientation: int) -> NDArray[Any]:
    """16-bit colour of a PNG, uint16 (H, W, C), upright. Raises for a damaged one."""
    with Image.open(BytesIO(content), formats=["PNG"]) as checked:
        checked.verify()  # OpenCV would write about it on stderr
    values = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED)
    if values is None:
        raise ValueError("damaged, or no PNG")
    if values.ndim == 3:  # OpenCV begins with blue
        values = values[..., [2, 1, 0, 3][: values.shape[2]]]
    return upright(values, orientation)


def upright(values: NDArray[Any], orientation: int) -> NDArray[Any]:
    """Turned and mirrored as an EXIF orientation (1 to 8) says."""
    if orientation in (5, 6, 7, 8):
        values = values.swapaxes(0, 1)
    rows = slice(None, None, -1 if orientation in (3, 4, 7, 8) else 1)
    columns = slice(None, None, -1 if orientation in (2, 3, 6, 7) else 1)
    return np.ascontiguousarray(values[rows, columns])


def _picture(values: NDArray[Any]) -> NDArray[Any]:
    if values.ndim not in (2, 3) or not values.size:
        shape = " x ".join(map(str, values.shape))
        raise ValueError(f"an array of {shape or 'one number'}, not rows x columns (x channels)")
    if values.shape[0] * values.shape[1] > most_pixels():
        raise ValueError(too_large())
    return values


def _most_samples(axes: str, shape: tuple[int, ...], kept: list[int]) -> float:
    channels = [shape[i] for i, axis in zip(kept, axes, strict=True) if axis not in "YX"]
    return most_pixels() * max([1, *channels])
