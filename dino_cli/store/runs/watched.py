"""RUN/watch/: photo-<n>.png, and attention-<epoch>.npz with the attention of each at that epoch."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dino_cli.store.runs.folder import when_full
from dino_cli.store.writing.atomic import atomic_write
from dino_cli.store.writing.targets import explain_errors

__all__ = ["read_attention", "read_photos", "write_attention", "write_photos"]


def write_photos(folder: Path, photos: Sequence[NDArray[np.uint8]]) -> None:
    """Each (S, S, 3) uint8, in place of what is there. Raises `TaskError` when the disk is full."""
    with explain_errors(folder, when_full(folder.parent)):
        folder.mkdir(exist_ok=True)
        (folder / f"photo-{len(photos)}.png").unlink(missing_ok=True)  # which ends the list
        for i, photo in enumerate(photos):
            with atomic_write(folder / f"photo-{i}.png") as temporary:
                Image.fromarray(photo).save(temporary, format="png")


def write_attention(folder: Path, epoch: int, attention: NDArray[np.float32]) -> None:
    """attention: (photos, heads, h, w), kept in half precision."""
    with explain_errors(folder, when_full(folder.parent)):
        folder.mkdir(exist_ok=True)
        with (
            atomic_write(folder / f"attention-{epoch:05}.npz") as temporary,
            temporary.open("wb") as file,
        ):
            np.savez_compressed(file, attention=attention.astype(np.float16))


def read_photos(folder: Path) -> list[NDArray[np.uint8]]:
    """The photos in their order; those that cannot be read end the list."""
    photos: list[NDArray[np.uint8]] = []
    while (path := folder / f"photo-{len(photos)}.png").is_file():
        try:
            photos.append(np.asarray(Image.open(path).convert("RGB")))
        except Exception:  # as a damaged picture may
            break
    return photos


def read_attention(folder: Path) -> dict[int, NDArray[np.float32]]:
    """(photos, heads, h, w) by epoch, ascending; damaged files are left out."""
    found = {}
    for path in sorted(folder.glob("attention-*.npz")):
        try:
            with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
                attention = archive["attention"].astype(np.float32)
            if attention.ndim == 4:
                found[int(path.stem.split("-")[1])] = attention
        except Exception:  # a damaged archive ends in any exception whatever
            continue
    return found
