"""A folder in the layout of Copydays: originals, and blocks of altered copies of them."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dino_cli.data.listing.formats import image_suffixes
from dino_cli.data.listing.image_list import ImageFile
from dino_cli.data.listing.images import find_images
from dino_cli.errors import TaskError

__all__ = ["ORIGINAL", "STRONG", "CopyBlock", "find_blocks"]

ORIGINAL, STRONG = "original", "strong"
SERIES = 4  # first characters of a name that a strong copy shares with its original


@dataclass(frozen=True)
class CopyBlock:
    """One kind of alteration. originals: of each file, the positions among the originals."""

    name: str
    files: Sequence[ImageFile]
    originals: list[list[int]]


def find_blocks(root: Path, *, leave_out: Sequence[Path]) -> list[CopyBlock]:
    """The originals first, then the strong copies, then all other folders that hold images.

    Copies stand in their block as their originals do, sorted by name; strong ones share the first
    four characters of their original's name. leave_out: folders that are no blocks. Raises
    `TaskError` for a copy without an original.
    """
    if not (root / ORIGINAL).is_dir():
        raise TaskError(
            f"there is no folder {ORIGINAL!r} in {str(root)!r}",
            "the layout is that of Copydays: original/, strong/, jpegqual/15/, crops/50/",
        )
    originals = find_images([str(root / ORIGINAL)])
    blocks = [CopyBlock(ORIGINAL, originals, [[i] for i in range(len(originals))])]
    left_out = {folder.resolve() for folder in leave_out}
    for folder in _folders(root):
        if folder.resolve() in left_out or folder == root / ORIGINAL:
            continue
        files = find_images([str(folder)])
        name = folder.relative_to(root).as_posix()
        owners = _strong(files, originals) if name == STRONG else _same(name, files, originals)
        blocks.append(CopyBlock(name, files, owners))
    return sorted(blocks, key=lambda block: _order(block.name))


def _folders(root: Path) -> list[Path]:
    """Folders below the root that hold images themselves; one level, or two."""
    found = []
    try:
        for folder in _inside(root):
            found += _inside(folder) or [folder]
        return [f for f in found if any(p.suffix.lower() in image_suffixes() for p in f.iterdir())]
    except OSError as error:
        raise TaskError(
            f"cannot read {str(error.filename)!r}: {error.strerror}", "check its permissions"
        ) from None


def _inside(folder: Path) -> list[Path]:
    return sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))


def _order(name: str) -> tuple[object, ...]:
    first = {ORIGINAL: 0, STRONG: 1}.get(name, 2)
    numbers = [int(part) if i % 2 else part for i, part in enumerate(re.split(r"(\d+)", name))]
    return first, *numbers


def _strong(files: Sequence[ImageFile], originals: Sequence[ImageFile]) -> list[list[int]]:
    owners = []
    for file in files:
        series = file.path.name[:SERIES]
        own = [i for i, one in enumerate(originals) if one.path.name[:SERIES] == series]
        if not own:
            raise TaskError(
                f"no original's name begins with {series!r}, as that of the strong copy"
                f" {file.path.as_posix()!r}",
                "a strong copy shares the first four characters with its original",
            )
        owners.append(own)
    return owners


def _same(name: str, files: Sequence[ImageFile], originals: Sequence[ImageFile]) -> list[list[int]]:
    if len(files) != len(originals):
        raise TaskError(
            f"the block {name!r} has {len(files)} images, but there are {len(originals)} originals",
            "every original needs one copy in every block but the strong one",
        )
    return [[i] for i in range(len(files))]
