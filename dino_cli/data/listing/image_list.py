"""A list of pictures that stays small: a million take some 40 MB, in every process together."""

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any, NamedTuple, overload

import numpy as np
from numpy.typing import NDArray

from dino_cli.data.listing.names import Names, joined

__all__ = ["ImageFile", "ImageList", "ImageListBuilder", "Row"]

# A picture: path of its folder, place of that below the argument ("" for the top), name, label.
Row = tuple[str, str, str, str]
BLOCK = 1 << 16  # pictures that are strings at a time


@dataclass(frozen=True, slots=True)
class ImageFile:
    """A picture to read.

    path: as found, joined to the argument as typed; inside a shard `shard.tar/name`. label: its
    class; "" when unknown. relative: its place below the argument that it was found in, suffix
    kept, for mirroring trees.
    """

    path: Path
    label: str
    relative: PurePath


class _Folder(NamedTuple):
    """A folder of pictures: its path, and its place below the argument ("" for the top)."""

    path: str
    relative: str


class ImageList(Sequence[ImageFile]):
    """A sequence of `ImageFile` in a few buffers; each is put together when it is asked for."""

    def __init__(
        self,
        names: Names,
        folder_ids: NDArray[np.int32],
        label_ids: NDArray[np.int32],
        folders: Sequence[tuple[str, str]],
        labels: Iterable[str],
    ) -> None:
        self._names, self._folder_ids, self._label_ids = names, folder_ids, label_ids
        self._paths = Names.pack(path for path, _ in folders)
        self._relatives = Names.pack(relative for _, relative in folders)
        self._labels = Names.pack(labels)

    @classmethod
    def of(cls, files: Sequence[ImageFile]) -> "ImageList":
        """The same pictures, as such a list."""
        if isinstance(files, cls):
            return files
        builder = ImageListBuilder()
        builder.add(files)
        return builder.build()

    def labelled(self) -> "ImageList":
        """The same pictures; where none has a label and they lie in folders of several names, each
        has the name of its own. A shard is no such folder."""
        names = [os.path.basename(os.path.abspath(path)) for path in self._paths]
        if any(self._labels) or len(set(names)) < 2 or not all(map(os.path.isdir, self._paths)):
            return self
        numbers = {name: i for i, name in enumerate(dict.fromkeys(names))}
        label_ids = np.array([numbers[name] for name in names], np.int32)[self._folder_ids]
        folders = list(zip(self._paths, self._relatives, strict=True))
        return ImageList(self._names, self._folder_ids, label_ids, folders, numbers)

    def __len__(self) -> int:
        return len(self._names)

    @overload
    def __getitem__(self, index: int) -> ImageFile: ...
    @overload
    def __getitem__(self, index: slice) -> "ImageList": ...
    def __getitem__(self, index: int | slice) -> "ImageFile | ImageList":
        if isinstance(index, slice):
            builder = ImageListBuilder()
            builder.add(self[i] for i in range(*index.indices(len(self))))
            return builder.build()
        name = self._names[index]  # raises IndexError
        folder, label = int(self._folder_ids[index]), int(self._label_ids[index])
        return ImageFile(
            Path(self._paths[folder], name),
            self._labels[label],
            PurePath(self._relatives[folder], name),
        )

    def path(self, index: int) -> Path:
        """The path of one picture."""
        name = self._names[index]
        return Path(self._paths[int(self._folder_ids[index])], name)

    def relatives(self) -> Iterator[str]:
        """`str(relative)` of each picture in turn, faster than through `ImageFile`."""
        folders = list(self._relatives)
        for name, folder in zip(self._names, self._folder_ids.tolist(), strict=True):
            yield f"{folders[folder]}/{name}" if folders[folder] else name

    def absolutes(self) -> Iterator[str]:
        """The absolute path of each picture in turn, faster than through `ImageFile`."""
        folders = [os.path.abspath(folder) for folder in self._paths]
        for name, folder in zip(self._names, self._folder_ids.tolist(), strict=True):
            yield os.path.join(folders[folder], name)


class ImageListBuilder:
    """Collects pictures. distinct: take each path once only, and count the `repeated` ones."""

    def __init__(self, *, distinct: bool = False) -> None:
        self.repeated = 0
        # Names by their folder's absolute path, which is found once for each spelling.
        self._seen: dict[str, set[str]] | None = {} if distinct else None
        self._spelled: dict[str, set[str]] = {}
        self._folders: dict[_Folder, int] = {}
        self._labels: dict[str, int] = {}
        self._names: list[Names] = []
        self._folder_ids: list[NDArray[np.int32]] = []
        self._label_ids: list[NDArray[np.int32]] = []

    def add_folder(
        self,
        path: str,
        relative: str,
        names: Names,
        labels: Sequence[str],
        label_ids: NDArray[np.int32] | None = None,
    ) -> None:
        """Pictures of one folder. label_ids: of `labels`, one per name; None: all the first."""
        folder = self._folder(path, relative)
        own = np.array([self._label(label) for label in labels], np.int32)
        ids = own[label_ids if label_ids is not None else np.zeros(len(names), np.int64)]
        if self._seen is not None:
            new = [self._is_new(path, name) for name in names]
            if not all(new):
                names = Names.pack(n for n, is_new in zip(names, new, strict=True) if is_new)
                ids = ids[np.array(new)]
        self._append(names, np.full(len(names), folder, np.int32), ids)

    def add(self, files: Iterable[ImageFile]) -> None:
        """Pictures one by one."""
        self.add_rows(map(_row, files))

    def add_rows(self, rows: Iterable[Row]) -> None:
        """The same from strings, which is much faster."""
        names: list[str] = []
        folders: list[int] = []
        labels: list[int] = []
        for path, relative, name, label in rows:
            if self._seen is not None and not self._is_new(path, name):
                continue
            names.append(name)
            folders.append(self._folder(path, relative))
            labels.append(self._label(label))
            if len(names) == BLOCK:
                self._append(Names.pack(names), np.array(folders), np.array(labels))
                names, folders, labels = [], [], []
        self._append(Names.pack(names), np.array(folders), np.array(labels))

    def build(self) -> ImageList:
        empty = [np.empty(0, np.int32)]
        return ImageList(
            joined(self._names),
            np.concatenate(self._folder_ids or empty),
            np.concatenate(self._label_ids or empty),
            list(self._folders),
            self._labels,
        )

    def _append(self, names: Names, folders: NDArray[Any], labels: NDArray[Any]) -> None:
        self._names.append(names)
        self._folder_ids.append(folders.astype(np.int32))
        self._label_ids.append(labels.astype(np.int32))

    def _is_new(self, folder: str, name: str) -> bool:
        assert self._seen is not None
        known = self._spelled.get(folder)
        if known is None:
            known = self._seen.setdefault(os.path.abspath(folder), set())
            self._spelled[folder] = known
        new = name not in known
        known.add(name)
        self.repeated += not new
        return new

    def _folder(self, path: str, relative: str) -> int:
        return self._folders.setdefault(_Folder(path, relative), len(self._folders))

    def _label(self, label: str) -> int:
        return self._labels.setdefault(label.replace("\0", ""), len(self._labels))


def _row(file: ImageFile) -> Row:
    relative = str(file.relative.parent)
    folder = str(file.path.parent)
    return folder, "" if relative == "." else relative, file.path.name, file.label
