"""Pictures of any number of channels in their own depth, for models that take no RGB photos.

The range is the type's, never the picture's, so that the same number means the same in every file:
whole numbers without a sign become shares of their largest (uint8 / 255, uint16 / 65535, uint32 /
4294967295; 12-bit TIFFs / 4095; bits 0 or 1), signed ones and floats stay as they are. `--mean` and
`--std` are of these values.
"""

import warnings
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from PIL.ExifTags import Base

from dino_cli.config.shared import Preprocessing
from dino_cli.data.decoding.arrays import ARRAY_SUFFIX, read_npy, read_png, read_tiff
from dino_cli.data.decoding.decode import UnreadableImage, grey_bits, read_image, reason_of, turned
from dino_cli.data.decoding.pixel_limit import refuse_too_large
from dino_cli.data.listing.formats import image_formats
from dino_cli.data.listing.shards import in_shard, read_member

__all__ = ["LUMINANCE", "as_picture", "fitted", "read_input", "read_samples", "scaled"]

LUMINANCE = (0.299, 0.587, 0.114)  # ITU-R 601, as Pillow's mode L
TIFF_SUFFIXES = (".tif", ".tiff")
WITH_ALPHA = {"LA": 2, "RGBA": 4}  # modes, and their channels


def read_input(path: Path, p: Preprocessing) -> Image.Image | NDArray[np.float32]:
    """What a model with this preprocessing reads: a picture in RGB, or `read_samples`.

    Raises `UnreadableImage`.
    """
    if not p.own_depth:
        return read_image(path, exif=p.exif)
    return read_samples(path, len(p.mean), exif=p.exif)


def read_samples(path: Path, channels: int | None, *, exif: bool = True) -> NDArray[np.float32]:
    """The picture in a file, (H, W, channels), in the range of its type; see above.

    channels: as many as the model takes; None: as many as there are.

    A `.npy` array is (H, W) or (H, W, C). Alpha is dropped unless it is a wanted channel. One
    channel of a colour picture is its luminance; any other number must be the file's. Values that
    are not finite become the smallest that is. Raises `UnreadableImage`; emits no warning.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        try:
            values, bits = _read(path, channels, exif)
            return fitted(scaled(values, bits), channels)
        except Exception as error:  # decoders raise anything at all on broken files
            raise UnreadableImage(reason_of(path, error)) from error


def scaled(values: NDArray[Any], bits: int = 0) -> NDArray[np.float32]:
    """Numbers of any real type as float32 in the range above. bits: used of each; 0: all."""
    if values.dtype.kind == "u" or bits:
        most = 2 ** (bits or 8 * values.dtype.itemsize) - 1
        return (values / np.float64(most)).astype(np.float32)
    with np.errstate(over="ignore"):
        return values.astype(np.float32)


def fitted(values: NDArray[np.float32], channels: int | None) -> NDArray[np.float32]:
    """(H, W) or (H, W, C) → (H, W, channels), finite. Raises `ValueError` where that is not so."""
    if values.ndim == 2:
        values = values[..., None]
    if channels == 1 and values.shape[2] == 3:
        values = (values @ np.array(LUMINANCE, np.float32))[..., None]
    if channels is not None and values.shape[2] != channels:
        raise ValueError(f"has {values.shape[2]} channels, and the model takes {channels}")
    finite = np.isfinite(values)
    if not finite.all():
        if not finite.any():
            raise ValueError("no finite pixel")
        values = np.where(finite, values, values[finite].min())
    return np.ascontiguousarray(values)


def as_picture(samples: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Something to look at, uint8 (H, W, 3): one channel in grey, else the first three as colours.

    Values in [0, 1] keep their brightness; others are drawn from the darkest to the lightest.
    """
    values = samples[..., :3] if samples.shape[2] >= 3 else samples[..., :1]
    low, high = float(values.min()), float(values.max())
    if low < 0 or high > 1:
        values = (values - low) / ((high - low) or 1.0)
    grey = np.rint(values.astype(np.float64) * 255).clip(0, 255).astype(np.uint8)
    return np.ascontiguousarray(np.broadcast_to(grey, (*grey.shape[:2], 3)))


def _read(path: Path, channels: int | None, exif: bool) -> tuple[NDArray[Any], int]:
    """Values of the file's own type, and how many bits of them are used where the file tells."""
    inside = in_shard(path)
    content = read_member(*inside) if inside else None
    if path.suffix.lower() == ARRAY_SUFFIX:
        return read_npy(path if content is None else BytesIO(content)), 0
    try:
        with Image.open(BytesIO(content) if content else path, formats=image_formats()) as image:
            refuse_too_large(image)
            if _is_whole(image, channels):
                image.load()
                return _values(turned(image) if exif else image, channels), grey_bits(image)
            if image.format == "PNG":
                # Before EXIF is asked for, which decodes and clears it.
                kinds = str(image.tile[0][3]).split(";")[0]
                orientation = image.getexif().get(Base.Orientation, 1) if exif else 1
                values = read_png(content or path.read_bytes(), orientation)
                return values[..., _bands_of_png(kinds, channels)], 0
    except UnidentifiedImageError:
        if path.suffix.lower() not in TIFF_SUFFIXES:
            raise
    return read_tiff(BytesIO(content) if content else path, channels), 0


def _bands_of_png(kinds: str, channels: int | None) -> list[int]:
    """Which of OpenCV's are LA, RGBA or RGB: it gives grey with alpha as four, and alpha to a file
    whose colours have a transparent one."""
    bands = {"LA": [0, 3], "RGBA": [0, 1, 2, 3]}.get(kinds, [0, 1, 2])
    return bands[:-1] if kinds in WITH_ALPHA and channels != len(bands) else bands


def _is_whole(image: Image.Image, channels: int | None) -> bool:
    """Whether Pillow gives all bits and bands of the file. It cuts 16-bit colour to 8 bits, for
    instance, and knows no channels in pages."""
    if image.format == "TIFF":
        tags = getattr(image, "tag_v2", {})
        bands = tags.get(Base.SamplesPerPixel, 1)
        if bands != len(image.getbands()) or channels == getattr(image, "n_frames", 1) > bands:
            return False
        bits = max(tags.get(Base.BitsPerSample, (1,)))
        signed = tags.get(Base.SampleFormat, (1,))[0] == 2
        return bits <= 8 or image.mode == "F" or image.mode[:4] == "I;16" or signed
    rawmodes = [tile[3] for tile in getattr(image, "tile", [])]
    deep = image.format == "PNG" and any(";16" in str(rawmode) for rawmode in rawmodes)
    return image.mode.startswith("I") or not deep


def _values(image: Image.Image, channels: int | None) -> NDArray[Any]:
    if image.mode in WITH_ALPHA and channels != WITH_ALPHA[image.mode]:
        image = image.convert(image.mode[:-1])
    if image.mode not in ("1", "L", "LA", "RGB", "RGBA", "F") and image.mode[:1] != "I":
        image = image.convert("RGB")
    return np.array(image)
