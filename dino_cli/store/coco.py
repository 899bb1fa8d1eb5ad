"""Masks as COCO annotations: run lengths or polygons, boxes, scores; written as they come.

The format is the one of https://cocodataset.org/#format-data; run lengths are compressed as
pycocotools does it, so that its `COCO` class reads the files. Run lengths and polygons alike give
back the mask, pixel for pixel.
"""

import json
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TextIO

import numpy as np
from numpy.typing import NDArray

from dino_cli.core.evaluation.overlaps import bounding_box
from dino_cli.core.masks.polygons import polygons
from dino_cli.store.writing.atomic import atomic_write

__all__ = ["CocoFile", "Segmentation", "annotation", "coco_file", "run_lengths"]

Segmentation = Literal["rle", "polygons"]
Mask = NDArray[np.bool_]


def run_lengths(mask: Mask) -> dict[str, Any]:
    """A mask (H, W) as COCO's compressed run lengths: {"size": [H, W], "counts": text}.

    Runs go down the columns, outside first. Each is written as its difference from the one before
    the last, in groups of five bits, the lowest first, a sixth bit saying that more follow.
    """
    flat = np.concatenate([[False], mask.ravel(order="F")])
    edges = np.flatnonzero(flat[1:] != flat[:-1])
    counts = np.diff(np.concatenate([[0], edges, [mask.size]]))
    text = bytearray()
    for i, count in enumerate(counts.tolist()):
        value = count - int(counts[i - 2]) if i > 2 else count
        while True:
            low, value = value & 31, value >> 5
            more = value != (-1 if low & 16 else 0)
            text.append((low | (32 if more else 0)) + 48)
            if not more:
                break
    return {"size": [int(mask.shape[0]), int(mask.shape[1])], "counts": text.decode("ascii")}


@dataclass
class CocoFile:
    """One COCO file being written. Images may come in any order; annotations wait on disk.

    Memory holds one number per image, whatever the masks.
    """

    waiting: TextIO
    _at: dict[tuple[int, ...], tuple[int, int]] = field(default_factory=dict)

    def add(
        self,
        number: tuple[int, ...],
        image: Mapping[str, Any],
        annotations: Sequence[Mapping[str, Any]],
    ) -> None:
        """One image and what is in it. They are written in the order of `number`, ids from 1.

        image: file_name, height, width and anything more; annotations: of `annotation`.
        """
        start = self.waiting.seek(0, os.SEEK_END)
        for one in (image, *annotations):
            self.waiting.write(json.dumps(one) + "\n")
        self._at[number] = (start, len(annotations))

    @property
    def images(self) -> int:
        return len(self._at)

    @property
    def masks(self) -> int:
        """How many annotations there are, of all images."""
        return sum(count for _, count in self._at.values())

    def _lines(self) -> Iterator[tuple[int, dict[str, Any], list[dict[str, Any]]]]:
        for image_id, (_, (start, count)) in enumerate(sorted(self._at.items()), 1):
            self.waiting.seek(start)
            image = json.loads(self.waiting.readline())
            yield (
                image_id,
                image,
                [json.loads(self.waiting.readline()) for _ in range(count)],
            )

    def write(self, path: Path, header: Mapping[str, Any]) -> None:
        """The whole file: header (info, categories, …), images, annotations."""
        with atomic_write(path) as temporary, temporary.open("w", encoding="utf-8") as file:
            file.write("{\n")
            for key, value in header.items():
                file.write(f"{json.dumps(key)}: {json.dumps(value)},\n")
            file.write('"images": [')
            for image_id, image, _ in self._lines():
                file.write(",\n" if image_id > 1 else "\n")
                file.write(json.dumps({"id": image_id, **image}))
            file.write('\n],\n"annotations": [')
            number = 0
            for image_id, _, annotations in self._lines():
                for one in annotations:
                    number += 1
                    file.write(",\n" if number > 1 else "\n")
                    file.write(json.dumps({"id": number, "image_id": image_id, **one}))
            file.write("\n]\n}\n")


@contextmanager
def coco_file() -> Iterator[CocoFile]:
    """A `CocoFile` whose annotations wait in a temporary file, removed at the end."""
    with tempfile.TemporaryFile("w+", encoding="ascii") as waiting:
        yield CocoFile(waiting)


def annotation(mask: Mask, segmentation: Segmentation, **more: Any) -> dict[str, Any] | None:
    """The annotation of a mask (H, W); None of an empty one. more: category_id, score, …"""
    if not mask.any():
        return None
    outline: Any = run_lengths(mask) if segmentation == "rle" else polygons(mask)
    top, left, bottom, right = bounding_box(mask)
    return {
        **more,
        "segmentation": outline,
        "area": int(mask.sum()),
        "bbox": [left, top, right - left, bottom - top],
        "iscrowd": 0,
    }
