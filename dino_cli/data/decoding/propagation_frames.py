"""A video's frames as label propagation takes them: resized by OpenCV, in whole patches."""

from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from dino_cli.data.decoding.decode import UnreadableImage, read_image

__all__ = ["frame_size", "read_frame"]

MOST_PIXELS = 64_000_000
STEP = 64  # the long side is cut to a multiple of that many pixels


def frame_size(photo: tuple[int, int], short: int, patch_size: int) -> tuple[int, int]:
    """(height, width) in the network of a frame of `photo` = (height, width) pixels.

    The short side becomes `short`, the long one keeps the aspect and is cut to a multiple of 64;
    of two equal sides the width counts as the long one. Where 64 or `short` are no multiples of the
    patch, both are cut to whole patches instead.
    """
    height, width = photo
    whole = short // patch_size * patch_size
    step = STEP if STEP % patch_size == 0 and whole == short else patch_size
    long = short * max(photo) / min(photo)
    cut = max(patch_size, int(long // step * step))
    return (cut, whole) if height > width else (whole, cut)


def read_frame(
    path: Path, short: int, patch_size: int
) -> tuple[NDArray[np.uint8], tuple[int, int]]:
    """The resized frame, uint8 (H, W, 3) RGB, and its (height, width) in the file.

    Bilinear without antialiasing, as the original resizes. Raises `UnreadableImage`.
    """
    pixels = np.asarray(read_image(path, exif=False))
    photo = pixels.shape[0], pixels.shape[1]
    height, width = frame_size(photo, short, patch_size)
    if height * width > MOST_PIXELS:
        raise UnreadableImage(f"would become {width} x {height} pixels after resizing")
    return np.asarray(cv2.resize(pixels, (width, height)), np.uint8), photo
