"""Which pictures: from files, folders and lists on the command line to an ordered list of files."""

import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import TextIO

from dino_cli.data.decode import image_suffixes
from dino_cli.errors import TaskError
from dino_cli.progress import Reporter

__all__ = ["ImageFile", "find_images"]


@dataclass(frozen=True, slots=True)
class ImageFile:
    """A picture to read.

    path: as found, joined to the argument as typed. label: its class; "" when unknown.
    relative: its place below the argument that it was found in, suffix kept, for mirroring trees.
    """

    path: Path
    label: str
    relative: PurePath


def find_images(
    arguments: Sequence[str], *, stdin: TextIO | None = None, reporter: Reporter | None = None
) -> list[ImageFile]:
    """The pictures that the arguments name, in their order; those of a folder sorted by path.

    - A folder is searched recursively for the suffixes of pictures; hidden names are passed over,
      links to folders followed. The label is the first folder below it (ImageFolder's convention).
    - A `.txt` list has one path per line, relative to the list's folder, and optionally a tab and
      the label; a list without labels takes the parent folders' names if there are several. `-`
      reads such a list from stdin, relative to the working folder. Listed files that do not exist
      fail when they are read, as damaged ones do.
    - Any other file is taken as a picture, whatever its suffix, without a label.

    A file named twice is taken once. Raises `TaskError` for a path that does not exist and for an
    argument that holds no picture.
    """
    found: dict[str, ImageFile] = {}
    repeated = 0
    for argument in arguments:
        for image in _expand(argument, stdin if stdin is not None else sys.stdin):
            key = os.path.abspath(image.path)
            repeated += key in found
            found.setdefault(key, image)
    if repeated and reporter is not None:
        times = "1 picture is" if repeated == 1 else f"{repeated} pictures are"
        reporter.remark(f"{times} named more than once; each is used once")
    return list(found.values())


def _expand(argument: str, stdin: TextIO) -> Iterable[ImageFile]:
    if argument == "-":
        return _from_list(stdin, Path(), "the list on stdin")
    path = Path(argument)
    try:
        if path.is_dir():
            return _from_folder(path)
        if not path.exists():
            raise TaskError(f"{argument!r} does not exist", "check the path")
        if not path.is_file():
            raise TaskError(f"{argument!r} is neither a file nor a folder", "name one of these")
        if path.suffix.lower() == ".txt":
            # Names on disk need not be UTF-8; surrogates carry their bytes through.
            with path.open(encoding="utf-8-sig", errors="surrogateescape") as lines:
                return _from_list(lines, path.parent, f"the list {argument!r}")
    except OSError as error:
        raise TaskError(f"cannot read {argument!r}: {error.strerror}", "check the path") from None
    return [ImageFile(path, "", PurePath(path.name))]


def _from_folder(folder: Path) -> list[ImageFile]:
    files = sorted(_walk(folder, image_suffixes(), ()), key=lambda path: path.parts)
    if not files:
        raise TaskError(
            f"no pictures in the folder {str(folder)!r} or below it",
            "files with suffixes such as .jpg, .png, .webp or .tif were looked for,"
            " hidden ones left out; name files of other suffixes one by one or in a .txt list",
        )
    images = []
    for path in files:
        relative = path.relative_to(folder)
        label = relative.parts[0] if len(relative.parts) > 1 else ""
        images.append(ImageFile(path, label, relative))
    return images


def _walk(
    folder: Path, suffixes: frozenset[str], above: tuple[tuple[int, int], ...]
) -> Iterator[Path]:
    """Pictures below a folder, in no order. `above`: the folders on the way here; breaks loops."""
    try:
        status = folder.stat()
        here = (status.st_dev, status.st_ino)
        if here in above:
            return
        with os.scandir(folder) as entries:
            listed = [entry for entry in entries if not entry.name.startswith(".")]
    except OSError as error:
        raise TaskError(
            f"cannot read the folder {str(folder)!r}: {error.strerror}", "check its permissions"
        ) from None
    for entry in listed:
        path = folder / entry.name
        if entry.is_dir():
            yield from _walk(path, suffixes, (*above, here))
        # A dangling link is kept: it fails when it is read, and is reported then. Pipes are not.
        elif os.path.splitext(entry.name)[1].lower() in suffixes and (
            entry.is_file() or (entry.is_symlink() and not path.exists())
        ):
            yield path


def _from_list(lines: Iterable[str], base: Path, name: str) -> list[ImageFile]:
    rows = [line.rstrip("\r\n").split("\t", 1) for line in lines if line.strip()]
    if not rows:
        raise TaskError(f"{name} is empty", "write one path per line")
    paths = [base / row[0] for row in rows]
    if any(len(row) > 1 for row in rows):
        labels = [row[1].strip() if len(row) > 1 else "" for row in rows]
    elif len({path.parent for path in paths}) > 1:
        labels = [path.parent.name for path in paths]
    else:
        labels = [""] * len(paths)
    written = [PurePath(row[0]) for row in rows]
    if any(path.is_absolute() or ".." in path.parts for path in written):
        # Such paths cannot be mirrored as they stand: mirror what lies below their common folder.
        whole = [os.path.abspath(path) for path in paths]
        common = os.path.commonpath([os.path.dirname(path) for path in whole])
        written = [PurePath(os.path.relpath(path, common)) for path in whole]
    return [ImageFile(*row) for row in zip(paths, labels, written, strict=True)]
