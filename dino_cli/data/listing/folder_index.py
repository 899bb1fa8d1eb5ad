"""The pictures below a folder, in the order of their paths, listed once.

Later listings ask every folder for its time stamps and read only those that changed. So a million
files in a thousand folders cost a thousand questions; the rest comes from
`data.listing.index_cache`.
"""

import os
import time
from collections.abc import Iterator, Set
from typing import NamedTuple

import numpy as np

from dino_cli.data.listing.formats import image_suffixes
from dino_cli.data.listing.index_cache import load_index, save_index
from dino_cli.data.listing.names import Names, joined
from dino_cli.errors import TaskError

__all__ = ["FolderBlock", "pictures_below"]

VERSION = 1
FEW = 10_000  # entries; a smaller tree is listed faster than one would notice
# A folder changed in the same tick of the clock as it was read would look unchanged: such young
# ones are read again next time.
SETTLED_SECONDS = 2.0
Stamp = tuple[int, int, int]  # inode, and times of the last change of content and of status


class FolderBlock(NamedTuple):
    """Some pictures that lie in one folder. folder: relative to the top, "" for itself."""

    folder: str
    names: Names


class _Listing(NamedTuple):
    """One folder: its pictures and its folders, each sorted. stamp: None when not to be kept."""

    stamp: Stamp | None
    pictures: Names
    folders: Names


class _Folder(NamedTuple):
    relative: str
    above: tuple[tuple[int, int], ...]  # the folders on the way here; breaks loops of links


def pictures_below(folder: str, suffixes: Set[str] | None = None) -> Iterator[FolderBlock]:
    """Pictures by their suffixes, sorted by the parts of their paths, in blocks.

    suffixes: lower-case, with the dot, in place of those that Pillow reads.
    Hidden names and pipes are passed over, links to folders followed; a link to a picture that
    leads nowhere, or to itself, is kept, so that it is reported when it is read. Raises `TaskError`
    for a folder that cannot be read.
    """
    suffixes = image_suffixes() if suffixes is None else suffixes
    key = "\n".join([f"folder {VERSION}", os.path.abspath(folder), *sorted(suffixes)])
    known = _load(key)
    seen: dict[str, _Listing] = {}
    entries, changed = 0, False
    todo: list[_Folder | FolderBlock] = [_Folder("", ())]
    while todo:
        item = todo.pop()
        if isinstance(item, FolderBlock):
            yield item
            continue
        path = os.path.join(folder, item.relative) if item.relative else folder
        try:
            status = os.stat(path)
            here = (status.st_dev, status.st_ino)
            if here in item.above:
                continue
            inode = status.st_ino % 2**63  # some file systems use all 64 bits
            stamp = (inode, status.st_mtime_ns, status.st_ctime_ns)
            listing = known.get(item.relative)
            if listing is None or listing.stamp != stamp:
                listing = _read(path, stamp, suffixes)
                changed = True
        except OSError as error:
            raise TaskError(
                f"cannot read the folder {path!r}: {error.strerror}", "check its permissions"
            ) from None
        seen[item.relative] = listing
        entries += len(listing.pictures) + len(listing.folders)
        todo.extend(reversed(list(_ordered(item, listing, (*item.above, here)))))
    if changed and entries >= FEW:
        _save(key, seen)


def _ordered(
    at: _Folder, listing: _Listing, above: tuple[tuple[int, int], ...]
) -> Iterator[_Folder | FolderBlock]:
    """Runs of pictures, and the folders between them, by name."""
    pictures, done = listing.pictures, 0
    for name in listing.folders:
        place = pictures.place(name)
        if place > done:
            yield FolderBlock(at.relative, pictures.part(done, place))
        done = place
        yield _Folder(f"{at.relative}/{name}" if at.relative else name, above)
    if done < len(pictures):
        yield FolderBlock(at.relative, pictures.part(done, len(pictures)))


def _read(path: str, stamp: Stamp, suffixes: Set[str]) -> _Listing:
    settled = time.time() - max(stamp[1:]) / 1e9 > SETTLED_SECONDS
    pictures, folders = [], []
    with os.scandir(path) as entries:
        for entry in entries:
            name = entry.name
            if name.startswith("."):
                continue
            if _is_folder(entry):
                folders.append(name)
                continue
            dangling = entry.is_symlink() and not os.path.exists(entry.path)
            settled = settled and not dangling  # where it leads may appear without a trace here
            _, dot, suffix = name.rpartition(".")
            if dot and f".{suffix.lower()}" in suffixes and (dangling or entry.is_file()):
                pictures.append(name)
    pictures.sort()
    folders.sort()
    return _Listing(stamp if settled else None, Names.pack(pictures), Names.pack(folders))


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that leads to itself, or where one may not look
        return False


def _load(key: str) -> dict[str, _Listing]:
    index = load_index(key)
    if index is None:
        return {}
    try:
        relatives = Names(index["relatives"].tobytes())
        pictures, folders = (Names(index[n].tobytes()) for n in ("pictures", "folders"))
        ends = index["ends"].tolist()
        known, at = {}, (0, 0)
        for relative, stamp, end in zip(relatives, index["stamps"].tolist(), ends, strict=True):
            known[relative[1:]] = _Listing(
                tuple(stamp) if any(stamp) else None,
                pictures.part(at[0], end[0]),
                folders.part(at[1], end[1]),
            )
            at = end
        return known
    except (KeyError, ValueError, IndexError, TypeError):
        return {}


def _save(key: str, seen: dict[str, _Listing]) -> None:
    listings = list(seen.values())
    sizes = [(len(one.pictures), len(one.folders)) for one in listings]
    texts = {
        "relatives": Names.pack(f"/{relative}" for relative in seen),  # none is empty
        "pictures": joined(one.pictures for one in listings),
        "folders": joined(one.folders for one in listings),
    }
    save_index(
        key,
        {
            **{name: np.frombuffer(text.buffer, np.uint8) for name, text in texts.items()},
            "stamps": np.array([one.stamp or (0, 0, 0) for one in listings], np.int64),
            "ends": np.cumsum(np.array(sizes, np.int64).reshape(-1, 2), axis=0),
        },
    )
