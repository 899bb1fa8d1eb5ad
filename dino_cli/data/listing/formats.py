"""Which pictures Pillow reads here: names of formats, suffixes of files."""

from functools import cache
from importlib import import_module
from importlib.util import find_spec

from PIL import Image

__all__ = ["HEIF_SUFFIXES", "image_formats", "image_suffixes"]

# Pillow only recognises these: no decoder exists (BUFR, GRIB, HDF5, MPEG), or it is another program
# that would run the file as a script (EPS, through Ghostscript), or only Windows has one (WMF).
NOT_DECODED = frozenset({"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "PDF", "WMF"})
# Written under names of their own, and opened as another format: photos with previews are JPEGs.
OPENED_AS = {"MPO": "JPEG"}
HEIF_SUFFIXES = frozenset({".heic", ".heif", ".hif"})


@cache
def image_formats() -> tuple[str, ...]:
    """Pillow's names of the formats that are decoded; with HEIF when pillow-heif is installed."""
    Image.init()
    if find_spec("pillow_heif"):
        import_module("pillow_heif").register_heif_opener()
    return tuple(sorted(set(Image.OPEN) - NOT_DECODED))


@cache
def image_suffixes() -> frozenset[str]:
    """Lower-case suffixes of pictures, with the dot.

    HEIF is always among them: without pillow-heif such files are named as skipped, not overlooked.
    """
    formats = set(image_formats())
    registered = Image.registered_extensions().items()
    known = {s.lower() for s, name in registered if OPENED_AS.get(name, name) in formats}
    return frozenset(known | HEIF_SUFFIXES)
