"""DAVIS folders: where the frames and masks of a video lie, and masks as palette PNGs."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dino_cli.core.evaluation.overlaps import VOID
from dino_cli.errors import TaskError

__all__ = ["Labels", "Video", "encode_labels", "find_videos", "read_labels"]

FRAME_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")
FRAMES, MASKS, SPLITS = "JPEGImages", "Annotations", "ImageSets"


@dataclass(frozen=True)
class Video:
    """frames: in order; masks: the true masks there are, by the frame's name without suffix."""

    name: str
    frames: list[Path]
    masks: dict[str, Path]

    @property
    def first_mask(self) -> Path:
        """That of the first frame."""
        return self.masks[self.frames[0].stem]


def find_videos(root: Path, split: str | None, resolution: str = "480p") -> list[Video]:
    """The videos of ROOT/JPEGImages/480p that ROOT/ImageSets/*/SPLIT.txt names.

    split None: `val` where there are such lists, else every video. Folders of videos may also lie
    in JPEGImages itself, as in other data sets of this form. Raises `TaskError` for what is
    missing: a folder, a listed video, a first mask.
    """
    if not root.is_dir():
        raise TaskError(f"{str(root)!r} is not a folder", "name the folder that holds JPEGImages")
    try:
        frames, masks = (_inside(root, name, resolution) for name in (FRAMES, MASKS))
        names = _listed(root, split) or _folders(frames)
        if not names:
            raise TaskError(f"no videos in {str(frames)!r}", "put the frames of each into a folder")
        return [_video(name, frames / name, masks / name) for name in names]
    except OSError as error:
        raise TaskError(
            f"cannot read {str(error.filename)!r}: {error.strerror}", "check its permissions"
        ) from None


def _inside(root: Path, name: str, resolution: str) -> Path:
    if not (root / name).is_dir():
        raise TaskError(
            f"there is no folder {name!r} in {str(root)!r}",
            f"the layout is that of DAVIS: {FRAMES}/480p/VIDEO/*.jpg, {MASKS}/480p/VIDEO/*.png",
        )
    inner = root / name / resolution
    if inner.is_dir():
        return inner
    present = [d for d in _folders(root / name) if d.endswith("p") or d == "Full-Resolution"]
    if present:
        raise TaskError(
            f"there is no folder {str(inner)!r}", f"use --resolution {sorted(present)[0]}"
        )
    return root / name


def _folders(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))


def _listed(root: Path, split: str | None) -> list[str]:
    lists = {path.stem: path for path in sorted(root.glob(f"{SPLITS}/*/*.txt"))}
    lists |= {path.stem: path for path in sorted(root.glob(f"{SPLITS}/2017/*.txt"))}
    if split is None and not lists:
        return []
    if (split or "val") not in lists:
        have = ", ".join(sorted(lists)) or "none"
        raise TaskError(
            f"there is no list {split or 'val'!r} in {str(root / SPLITS)!r} (there: {have})",
            "name one with --split, or leave it out for every video"
            if not lists
            else "name one with --split",
        )
    path = lists[split or "val"]
    try:
        names = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise TaskError(f"cannot read the list {str(path)!r}: {error}", "repair it") from None
    names = list(dict.fromkeys(name for name in names if name))
    if not names:
        raise TaskError(f"the list {str(path)!r} is empty", "write one video's name per line")
    if wrong := [name for name in names if Path(name).name != name or name.startswith(".")]:
        raise TaskError(f"{wrong[0]!r} in {str(path)!r} is no video's name", "repair the list")
    return names


def _video(name: str, frames: Path, masks: Path) -> Video:
    if not frames.is_dir():
        raise TaskError(f"the video {name!r} has no folder {str(frames)!r}", "check the split")
    found = sorted(
        p
        for p in frames.iterdir()
        if p.suffix.lower() in FRAME_SUFFIXES and not p.name.startswith(".")
    )
    stems = [p.stem for p in found]
    if not found:
        raise TaskError(f"no frames in {str(frames)!r}", f"suffixes: {', '.join(FRAME_SUFFIXES)}")
    if len(set(stems)) < len(stems):
        twice = next(stem for stem in stems if stems.count(stem) > 1)
        raise TaskError(f"{str(frames)!r} holds two frames {twice!r}", "keep one of them")
    known = {stem: path for stem in stems if (path := masks / f"{stem}.png").is_file()}
    if stems[0] not in known:
        raise TaskError(
            f"the video {name!r} has no mask of its first frame, {masks / stems[0]!s}.png",
            "the first frame's labels are what is carried on",
        )
    return Video(name, found, known)


@dataclass(frozen=True)
class Labels:
    """A label map: numbers, uint8 (H, W), 0 the background; the palette, RGB RGB …, if any; and
    whether the file knew but one object, as 255."""

    numbers: NDArray[np.uint8]
    palette: tuple[int, ...] | None = None
    binary: bool = False

    @property
    def objects(self) -> int:
        """The highest number."""
        return int(self.numbers.max(initial=0))


def read_labels(path: Path, *, binary: bool | None = None) -> Labels:
    """The objects in a mask's file: their numbers, void (255) as background.

    A mask of nothing but 0 and 255 that has no palette, as in DAVIS-2016, is one object; `binary`
    tells whether it is, where other masks of the video do. Raises `TaskError` for a file that is no
    picture of labels.
    """
    try:
        with Image.open(path) as image:
            image.load()
            mode, palette = image.mode, image.getpalette() if image.mode == "P" else None
            numbers = np.array(image)
    except Exception as error:  # decoders raise anything at all on broken files
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise TaskError(f"cannot read the mask {str(path)!r}: {reason}", "repair it") from None
    if mode == "1":
        return Labels(numbers.astype(np.uint8), binary=True)
    if mode not in ("P", "L"):
        raise TaskError(
            f"the mask {str(path)!r} has colours (mode {mode}) instead of numbers of objects",
            "save it as an indexed PNG",
        )
    if binary is None:
        binary = mode == "L" and bool(np.isin(numbers, (0, VOID)).all() and numbers.any())
    if binary:
        numbers = (numbers > VOID // 2).astype(np.uint8)
    numbers[numbers == VOID] = 0
    return Labels(numbers, tuple(palette) if palette else None, binary)


def encode_labels(numbers: NDArray[np.uint8], palette: Sequence[int] | None = None) -> bytes:
    """An indexed PNG of a label map (H, W); without a palette in the colours of PASCAL VOC."""
    image = Image.fromarray(numbers)
    colours = list(palette or ())
    # All 256 of them: with fewer, Pillow would write fewer bits for each number.
    image.putpalette(colours + _voc_colours()[len(colours) :])
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def _voc_colours() -> list[int]:
    """The bits of a label's number, three at a time, become the high bits of red, green, blue."""
    colours = []
    for number in range(256):
        for channel in range(3):
            bits = [(number >> (3 * i + channel)) & 1 for i in range(8)]
            colours.append(sum(bit << (7 - i) for i, bit in enumerate(bits)))
    return colours
