"""Small pictures to look at."""

import io
from pathlib import Path

from PIL import Image

from dino_cli.data.decoding.decode import UnreadableImage, read_image
from dino_cli.data.decoding.own_depth import as_picture, read_samples

__all__ = ["SIDE", "as_jpeg", "small_picture"]

SIDE = 160  # pixels of the long side: sharp in a list, some 5 KB
QUALITY = 82  # of JPEG


def small_picture(path: Path, *, exif: bool = True, side: int = SIDE) -> Image.Image:
    """The whole picture, RGB, its long side `side` pixels at most.

    What is no photo (an array, a TIFF of many bands) is drawn by `data.decoding.own_depth`. Raises
    `ValueError` for a file that gives no picture.
    """
    try:
        picture = read_image(path, exif=exif)
    except UnreadableImage as error:
        try:
            picture = Image.fromarray(as_picture(read_samples(path, None, exif=exif)))
        except UnreadableImage:
            raise ValueError(error.reason) from None
    picture.thumbnail((side, side), Image.Resampling.LANCZOS, reducing_gap=2.0)
    return picture


def as_jpeg(picture: Image.Image) -> bytes:
    """A small RGB picture as a JPEG file."""
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=QUALITY)
    return buffer.getvalue()
