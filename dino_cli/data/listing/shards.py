"""WebDataset shards: pictures inside uncompressed `.tar` files, read at random by their offsets.

A tar has no table of contents, so each is walked through once and indexed. A picture's path is
then `shard.tar/name inside`, as if the tar were a folder, for everything that reads pictures.
Members of one sample share the name up to the first dot (https://github.com/webdataset/webdataset).
"""

import os
import tarfile
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dino_cli.data.decoding.arrays import ARRAY_SUFFIX
from dino_cli.data.listing.formats import image_suffixes
from dino_cli.data.listing.index_cache import load_index, save_index
from dino_cli.data.listing.names import Names
from dino_cli.errors import TaskError

__all__ = ["Shard", "in_shard", "is_shard", "open_shard", "read_member"]

VERSION = 2
FEW = 100  # pictures; fewer are indexed again faster than one would notice
COMPRESSED = (".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".tar.zst", ".tar.lz4")
MAGIC = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd", b"\x04\x22\x4d\x18")
LONGEST_LABEL = 64  # characters; a longer `.txt` is a caption


class Shard(NamedTuple):
    """The index of one tar.

    names: of the pictures inside, sorted by the parts of their paths as files of a folder are.
    offsets, sizes: in bytes, int64 (N,). label_ids: int32 (N,), of `labels`. cut: whether the file
    ends too early; then what comes before is indexed. stamp: size and change time of the file.
    """

    names: Names
    offsets: NDArray[np.int64]
    sizes: NDArray[np.int64]
    label_ids: NDArray[np.int32]
    labels: Names
    cut: bool
    stamp: tuple[int, int]


# By path as typed. Workers that are forked share what their parent has read.
_opened: dict[str, Shard] = {}


def is_shard(name: str) -> bool:
    """Whether a file is taken for a shard, by its suffix. Raises `TaskError` if compressed."""
    if name.lower().endswith(COMPRESSED):
        raise _compressed(name)
    return name.endswith(".tar")


def open_shard(path: str) -> Shard:
    """The index of a tar, made once and kept. Raises `TaskError` for what is no tar; OSError."""
    status = os.stat(path)
    stamp = (status.st_size, status.st_mtime_ns)
    shard = _opened.get(path)
    if shard is None or shard.stamp != stamp:
        key = "\n".join([f"shard {VERSION}", os.path.abspath(path), *sorted(image_suffixes())])
        shard = _load(key, stamp)
        if shard is None:
            shard = _index(path, stamp)
            if len(shard.names) >= FEW:
                _save(key, shard)
        _opened[path] = shard
    return shard


def in_shard(path: str | Path) -> tuple[str, str] | None:
    """(tar, name inside) of a path that leads into a tar; None for any other."""
    text = os.fspath(path)
    at = text.find(".tar/")
    while at >= 0:
        tar = text[: at + 4]
        if os.path.isfile(tar):
            return tar, text[at + 5 :]
        at = text.find(".tar/", at + 1)
    return None


def read_member(tar: str, name: str) -> bytes:
    """The bytes of a picture in a tar. Raises OSError, `TaskError`, `EOFError` if it is cut off."""
    shard = open_shard(tar)
    place = shard.names.place(name, _parts)
    if place == len(shard.names) or shard.names[place] != name:
        raise FileNotFoundError(2, "no such picture in the shard")
    size = int(shard.sizes[place])
    with open(tar, "rb") as file:
        file.seek(int(shard.offsets[place]))
        content = file.read(size)
    if len(content) < size:
        raise EOFError("the shard ends within it")
    return content


def _parts(name: str) -> list[str]:
    return name.split("/")


class _Found(NamedTuple):
    offset: int
    size: int


def _index(path: str, stamp: tuple[int, int]) -> Shard:
    pictures: dict[str, _Found] = {}
    notes: dict[str, str] = {}
    with open(path, "rb") as file:
        try:
            cut = _walk(file, stamp[0], pictures, notes)
        # Sizes that no file has: told, without taking memory for them.
        except (tarfile.TarError, ValueError, EOFError, OverflowError, MemoryError) as error:
            raise _no_tar(path, str(error)) from None
    if not pictures:
        if cut:
            raise _no_tar(path, "it ends before the first picture does")
        raise TaskError(f"no pictures in the shard {path!r}", "check that it is the right file")
    # As in a folder, arrays count where there are no pictures.
    arrays = {name for name in pictures if name.lower().endswith(ARRAY_SUFFIX)}
    if len(arrays) < len(pictures):
        pictures = {name: found for name, found in pictures.items() if name not in arrays}
    names = sorted(_samples(pictures), key=_parts)
    labels: dict[str, int] = {}
    ids = [labels.setdefault(_label(name, notes), len(labels)) for name in names]
    return Shard(
        Names.pack(names),
        np.array([pictures[name].offset for name in names], np.int64),
        np.array([pictures[name].size for name in names], np.int64),
        np.array(ids, np.int32),
        Names.pack(labels),
        cut,
        stamp,
    )


def _walk(file: BinaryIO, length: int, pictures: dict[str, _Found], notes: dict[str, str]) -> bool:
    """Fill in where pictures lie and what their companions say; whether the file is cut off."""
    suffixes = image_suffixes()
    with tarfile.open(fileobj=file, mode="r:") as tar:
        while True:
            try:
                member = tar.next()
            except tarfile.ReadError:
                return True
            if member is None:
                return False
            if member.size < 0 or tar.offset < member.offset_data:
                raise ValueError("a size below zero")  # it would be walked through for ever
            tar.members = []  # type: ignore[attr-defined]  # else it keeps all of them
            name = _plain(member.name)
            if member.islnk() and name:  # the same file under another name
                if target := pictures.get(_plain(member.linkname)):
                    pictures[name] = target
                continue
            if not name or not member.isreg() or member.issparse():
                continue
            if member.offset_data + member.size > length:
                return True
            suffix = os.path.splitext(name)[1].lower()
            if suffix in suffixes or suffix == ARRAY_SUFFIX:
                pictures[name] = _Found(member.offset_data, member.size)
            elif suffix in (".cls", ".txt") and member.size <= 4 * LONGEST_LABEL:
                file.seek(member.offset_data)  # tarfile finds its own way back
                notes[name] = _text(file.read(member.size))


def _plain(name: str) -> str:
    """A name without `./` and `/` in front; "" for hidden ones and those that lead out."""
    parts = [part for part in name.split("/") if part not in ("", ".")]
    return "" if any(part.startswith(".") for part in parts) or "\0" in name else "/".join(parts)


def _samples(pictures: dict[str, _Found]) -> list[str]:
    """Where a sample has a picture `key.jpg`, it is the one: `key.mask.png` beside it is not."""
    whole = {_key(name) for name in pictures if _is_whole(name)}
    return [name for name in pictures if _is_whole(name) or _key(name) not in whole]


def _key(name: str) -> str:
    folder, slash, file = name.rpartition("/")
    return f"{folder}{slash}{file.split('.', 1)[0]}"


def _is_whole(name: str) -> bool:
    return name.rpartition("/")[2].count(".") == 1


def _label(name: str, notes: dict[str, str]) -> str:
    key = _key(name)
    for suffix in (".cls", ".txt"):
        if key + suffix in notes:
            return notes[key + suffix]
    folder, slash, _ = name.partition("/")
    return folder if slash else ""


def _text(content: bytes) -> str:
    text = content.decode("utf-8", "replace").replace("\0", "").strip()
    return text if len(text) <= LONGEST_LABEL and "\n" not in text else ""


def _load(key: str, stamp: tuple[int, int]) -> Shard | None:
    index = load_index(key)
    try:
        if index is None or tuple(index["stamp"].tolist()) != stamp:
            return None
        shard = Shard(
            Names(index["names"].tobytes()),
            index["offsets"],
            index["sizes"],
            index["label_ids"],
            Names(index["labels"].tobytes()),
            bool(index["cut"]),
            stamp,
        )
        lengths = {len(shard.names), len(shard.offsets), len(shard.sizes), len(shard.label_ids)}
        return shard if len(lengths) == 1 else None
    except (KeyError, ValueError, TypeError):
        return None


def _save(key: str, shard: Shard) -> None:
    save_index(
        key,
        {
            "names": np.frombuffer(shard.names.buffer, np.uint8),
            "labels": np.frombuffer(shard.labels.buffer, np.uint8),
            "offsets": shard.offsets,
            "sizes": shard.sizes,
            "label_ids": shard.label_ids,
            "cut": np.array(shard.cut),
            "stamp": np.array(shard.stamp, np.int64),
        },
    )


def _compressed(name: str) -> TaskError:
    return TaskError(
        f"{name!r} is compressed, so that its pictures cannot be read one by one",
        "unpack it to a plain .tar once (gunzip, bunzip2, unxz or zstd -d)",
    )


def _no_tar(path: str, reason: str) -> TaskError:
    with open(path, "rb") as file:
        if file.read(6).startswith(MAGIC):
            return _compressed(path)
    reason = " ".join(reason.split()) or "unknown content"
    return TaskError(f"{path!r} is not a readable tar ({reason})", "make or fetch it again")
