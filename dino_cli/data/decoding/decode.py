"""From a file to pixels: any picture that Pillow reads, as 8-bit RGB."""

import ctypes
import errno
import os
import warnings
from collections.abc import Callable
from contextlib import suppress
from importlib.util import find_spec
from io import BytesIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError, _imaging
from PIL.ExifTags import Base

from dino_cli.data.decoding.pixel_limit import refuse_too_large, too_large
from dino_cli.data.decoding.video_frames import in_video, is_video_name, read_video_frame
from dino_cli.data.listing.formats import HEIF_SUFFIXES, image_formats, what_else
from dino_cli.data.listing.shards import in_shard, read_member

__all__ = [
    "UnreadableImage",
    "grey_bits",
    "read_image",
    "reason_of",
    "turned",
]


# Pillow's libtiff writes about damaged files on stderr by itself, without their names.
with suppress(AttributeError, OSError):  # a Pillow without it
    ctypes.CDLL(_imaging.__file__).TIFFSetErrorHandler(None)


class UnreadableImage(Exception):
    """The file gives no picture; `reason` says why, in a few words without the path."""

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(reason)


def read_image(
    path: Path, *, exif: bool = True, load: Callable[[Image.Image], Image.Image] | None = None
) -> Image.Image:
    """The picture in a file (the first frame of several), mode RGB, fully loaded.

    path: of a file, of a picture in a shard (`data.listing.shards`), of a frame
    (`data.decoding.video_frames`). exif: turn it as its EXIF orientation says. Transparency is
    dropped as `convert("RGB")` does, like the original; 16-bit, 32-bit and float greys are scaled
    to 8 bits, where `convert` would clip them to white. load: gives the pixels of what is opened
    and not yet decoded, of another size perhaps. Raises `UnreadableImage`; emits no warning.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        # Pillow warns above its pixel limit and refuses above twice that; both mean refused here.
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        try:
            frame = in_video(path)
            if frame is not None:
                return read_video_frame(*frame)
            inside = in_shard(path)
            source = BytesIO(read_member(*inside)) if inside else path
            with Image.open(source, formats=image_formats()) as image:
                refuse_too_large(image)
                loaded = load(image) if load else image
                loaded.load()
                return _rgb(turned(loaded) if exif else loaded, grey_bits(image))
        except Exception as error:  # decoders raise anything at all on broken files
            raise UnreadableImage(reason_of(path, error)) from error


def turned(image: Image.Image) -> Image.Image:
    """Upright, as its EXIF orientation says."""
    try:
        # Asked first, because `exif_transpose` copies the picture even when there is nothing to do.
        upright = image.getexif().get(Base.Orientation, 1) == 1
        return image if upright else ImageOps.exif_transpose(image)
    except Exception:  # broken metadata does not spoil the pixels
        return image


def _rgb(image: Image.Image, bits: int) -> Image.Image:
    if image.mode.startswith("I") or image.mode == "F":
        return Image.fromarray(_grey(np.asarray(image), image.mode, bits)).convert("RGB")
    if image.mode in ("RGBa", "La"):  # premultiplied alpha has no direct way to RGB
        image = image.convert("RGBA" if image.mode == "RGBa" else "LA")
    return image.convert("RGB")


def grey_bits(image: Image.Image) -> int:
    """Bits of a wide grey sample where the file tells, else 0."""
    if image.mode.startswith("I;16"):
        tags = getattr(image, "tag_v2", {})
        bits = tags.get(Base.BitsPerSample, (16,))[0]
        return int(bits) if 8 < bits <= 16 else 16
    return 16 if image.mode == "I" and image.format in ("PNG", "PPM") else 0


def _grey(values: NDArray[np.generic], mode: str, bits: int) -> NDArray[np.uint8]:
    """Wide greys (H, W) as 8 bits: the high byte, as Pillow does for 16-bit colour.

    Where the file does not tell the range: whole numbers by 8 or 16 bits, what holds them, floats
    in [0, 1] or [0, 255] by that range, everything else from darkest to lightest.
    """
    wide = values.astype(np.float64)
    finite = np.isfinite(wide)
    if not finite.all():
        if not finite.any():
            raise ValueError("no finite pixel")
        wide = np.where(finite, wide, wide[finite].min())
    low, high = float(wide.min()), float(wide.max())
    if mode != "F" and low >= 0 and high < 2**16:
        scaled = np.floor(wide / 2 ** ((bits or (8 if high < 2**8 else 16)) - 8))
    elif mode == "F" and low >= 0 and high <= 255:
        scaled = np.rint(wide * 255 if high <= 1 else wide)
    else:
        scaled = np.rint((wide - low) / ((high - low) or 1.0) * 255)
    grey: NDArray[np.uint8] = np.clip(scaled, 0, 255).astype(np.uint8)
    return grey


def reason_of(path: Path, error: Exception) -> str:
    """Why a file gives no picture, in a few words without its path."""
    if isinstance(error, FileNotFoundError):
        if any(os.path.isfile(str(path).rpartition(separator)[0]) for separator in ",; "):
            return "no such file; lists separate a label from the path by a tab"
        return "no such file"
    if isinstance(error, PermissionError):
        return "no permission to read it"
    if isinstance(error, IsADirectoryError):
        return "a folder, not a file"
    if isinstance(error, OSError) and error.errno == errno.ELOOP:
        return "a link that leads to itself"
    if isinstance(error, Image.DecompressionBombWarning | Image.DecompressionBombError):
        return too_large()
    if isinstance(error, UnidentifiedImageError):
        if not in_shard(path) and os.path.getsize(path) == 0:
            return "empty file"
        if is_video_name(path.name):
            return "a video, which embed, knn, attention and pca take apart into frames"
        if path.suffix.lower() in HEIF_SUFFIXES and not find_spec("pillow_heif"):
            return "HEIF pictures need the package pillow-heif (pip install 'dino-cli[heif]')"
        if path.suffix.lower() == ".npy":
            return "an array, which models of other --in-chans than 3 read"
        if told := what_else(path.name):
            return f"{told[0]}, no picture; {told[1]}"
        return "not a picture that Pillow knows"
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 200 else text[:197] + "..."
