"""Which pictures Pillow reads here: names of formats, suffixes of files."""

from functools import cache
from importlib import import_module
from importlib.util import find_spec

from PIL import Image

__all__ = ["HEIF_SUFFIXES", "image_formats", "image_suffixes", "what_else"]

# Pillow only recognises these: no decoder exists (BUFR, GRIB, HDF5, MPEG), or it is another program
# that would run the file as a script (EPS, through Ghostscript), or only Windows has one (WMF).
NOT_DECODED = frozenset({"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "PDF", "WMF"})
# Written under names of their own, and opened as another format: photos with previews are JPEGs.
OPENED_AS = {"MPO": "JPEG"}
HEIF_SUFFIXES = frozenset({".heic", ".heif", ".hif"})
_TABLE = ("a table", "for a list take .txt, one path per line, and a tab before a label")
_ARCHIVE = ("an archive", "unpack it, or pack the pictures as an uncompressed .tar")
_STORE = ("a store of arrays", "save its pictures as files, or pack them as an uncompressed .tar")
_VOLUME = ("a medical volume", "save its slices as .npy or 16-bit .png, for --in-chans 1")
_OTHERS = {
    _TABLE: (".csv", ".tsv", ".json", ".jsonl", ".parquet", ".xlsx"),
    _ARCHIVE: (".zip", ".7z", ".rar"),
    _STORE: (".h5", ".hdf5", ".lmdb", ".mdb", ".tfrecord", ".npz", ".pkl", ".mat"),
    _VOLUME: (".dcm", ".nii", ".nii.gz", ".nrrd", ".mha"),
}


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


def what_else(name: str) -> tuple[str, str] | None:
    """What a file of data that holds no picture is, by its suffix, and the way from it to some."""
    for told, suffixes in _OTHERS.items():
        if name.lower().endswith(suffixes):
            return told
    return None
