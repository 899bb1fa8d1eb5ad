"""Pictures, lists of them, and shards."""

import io
import os
import tarfile
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from faults.reads.base import command, reader
from PIL import Image
from small_vit import photo, write_small_vit

from dino_cli.data.decoding.decode import UnreadableImage, read_image
from dino_cli.data.listing import shards
from dino_cli.data.listing.images import find_images


def _shard(folder: Path, count: int) -> Path:
    """A tar of pictures in two classes, with texts beside them and another name for one."""
    content = photo(folder / "seed.png", size=(24, 20)).read_bytes()
    path = folder / "shard.tar"
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as tar:
        for i in range(count):
            beside = (f"{i:03}.png", content), (f"{i:03}.cls", b"ab"[i % 2 : i % 2 + 1])
            for name, data in beside if i else (("é" * 120 + ".png", content),):
                member = tarfile.TarInfo(name)
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
        other = tarfile.TarInfo("other.png")
        other.type, other.linkname = tarfile.LNKTYPE, "001.png"
        tar.addfile(other)
    return path


def _read_shard(path: Path) -> None:
    shards._opened.clear()
    for file in find_images([str(path)]):
        try:
            read_image(file.path)
        except UnreadableImage:
            continue


@reader
def shard(folder: Path) -> Any:
    path = _shard(folder, 6)
    return [path], lambda: _read_shard(path)


@reader
def shard_index(folder: Path) -> Any:
    path = _shard(folder, 110)

    def read() -> None:  # the tar itself is whole: its pictures are found whatever the index says
        with mock.patch.dict(os.environ, {"DINO_CACHE": str(folder / "cache")}):
            shards._opened.clear()
            assert len(find_images([str(path)])) == 111

    read()
    return list((folder / "cache" / "index").iterdir()), read


@reader
def picture_list(folder: Path) -> Any:
    lines = [str(photo(folder / "photos" / f"{i}.png", size=(24, 20), seed=i)) for i in range(4)]
    (folder / "list.txt").write_text("\n".join(lines) + "\n")
    weights = write_small_vit(folder / "w.safetensors")
    words = ("embed", folder / "list.txt", "--weights", weights, "--workers", 0, "--overwrite")
    return [folder / "list.txt"], lambda: command(*words, "-o", folder / "feats.npy")


@reader
def pictures(folder: Path) -> Any:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (20, 24, 3), np.uint8))
    files = [
        folder / "photos" / f"0.{s}" for s in ("png", "jpg", "gif", "tif", "webp", "bmp", "ppm")
    ]
    (folder / "photos").mkdir()
    for file in files:
        image.save(file)
    weights = write_small_vit(folder / "w.safetensors")
    words = ("embed", folder / "photos", "--weights", weights, "--workers", 0, "--overwrite")
    return files, lambda: command(*words, "-o", folder / "feats.npy")
