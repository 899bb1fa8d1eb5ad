"""Photos for the page, from the one that the heads fit best to the one that they fit worst."""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path, PurePath
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from dino_cli.config.eval_segmentation import EvalSegmentationConfig
from dino_cli.config.shared import Preprocessing
from dino_cli.core.evaluation.overlaps import Objects
from dino_cli.data.listing.image_list import ImageFile
from dino_cli.progress import Reporter
from dino_cli.store.pages import Picture, cut_out, picture
from dino_cli.tasks.eval.report import Example, ExampleTile, spread
from dino_cli.tasks.eval.segmentation.pairs import LabelledPhoto, objects_in
from dino_cli.tasks.eval.segmentation.scores import ImageScore, find_masks
from dino_cli.tasks.model import Model, open_model
from dino_cli.tasks.photos.reading import LoadedPhoto, UnreadPhoto, photo_reader, stacked

__all__ = ["choose_examples", "examples"]

SIDE = 240  # pixels of a tile's longer side
MASKS = {
    "mean": "mean of the heads",
    "seeded": "patches like those",
    "tokens": "the same of the output",
    "cut": "TokenCut",
}


def choose_examples(
    pairs: Sequence[LabelledPhoto], scores: Mapping[int, ImageScore]
) -> list[dict[str, Any]]:
    """Six photos, evenly spread over the order by their best heads: {"path", "labels", "jaccard"}.

    scores: by position of the pair.
    """
    order = sorted(scores, key=lambda i: (-scores[i].jaccard["best"], i))
    return [
        {
            "path": pairs[i].image.path.as_posix(),
            "labels": pairs[i].labels.as_posix(),
            "jaccard": scores[i].jaccard["best"],
        }
        for i in (order[place] for place in spread(len(order)))
    ]


def examples(
    config: EvalSegmentationConfig,
    result: Mapping[str, Any],
    reporter: Reporter,
    model: Model | None = None,
) -> list[Example]:
    """The photos that `result["examples"]` names, with their objects and masks.

    What cannot be read any more is left out.
    """
    model = model or open_model(config, reporter)
    reader = photo_reader(model, replace(config, batch_size=1, workers=1))
    pairs = [_pair(Path(one["path"]), Path(one["labels"])) for one in result["examples"]]
    drawn: dict[int, Example] = {}
    with ThreadPoolExecutor(1) as pool:
        for group in reader.groups(pool, [pair.image for pair in pairs]):
            if isinstance(group, UnreadPhoto):
                continue
            truth = objects_in(pairs[group[0].index].labels, group[0])
            if isinstance(truth, Objects) and truth.labels:
                name = pairs[group[0].index].image.path.name
                p, threshold = reader.preprocessing, config.threshold
                drawn[group[0].index] = _draw(model, group[0], truth, p, threshold, name)
    return [drawn[i] for i in sorted(drawn)]


def _pair(path: Path, labels: Path) -> LabelledPhoto:
    return LabelledPhoto(ImageFile(path, "", PurePath(path.name)), labels)


def _draw(
    model: Model, photo: LoadedPhoto, truth: Objects, p: Preprocessing, threshold: float, name: str
) -> Example:
    """The photo, its objects, and each kind of mask with its overlap."""
    seen = find_masks(model, stacked([photo]), p, threshold, everything=True)[0]
    patch = model.backbone.patch_size
    per_head = truth.overlaps(seen.heads, patch).mean(axis=0)
    best = int(per_head.argmax())
    small = _shrunk(photo.view)
    layout = photo.layout.at((small.shape[0], small.shape[1]))
    objects = np.where(truth.maps.any(axis=0), np.uint8(255), np.uint8(0))
    there = np.asarray(cv2.resize(objects, small.shape[1::-1])) > 127

    def cut(mask: NDArray[np.bool_], alt: str) -> Picture:
        return cut_out(small, np.asarray(layout.enlarge(mask), bool), alt)

    tiles = [
        ExampleTile(picture(small, name), "photo"),
        ExampleTile(cut_out(small, there, f"objects of {name}"), "its objects"),
        ExampleTile(
            cut(seen.heads[best], f"best head of {name}"),
            f"best head, {best}",
            float(per_head[best]),
        ),
    ]
    for kind, caption in MASKS.items():
        mask = seen.singles[kind]
        overlap = float(truth.overlaps(mask[None], patch).mean())
        tiles.append(ExampleTile(cut(mask, f"{caption}: {name}"), caption, overlap))
    return Example(title=name, tiles=tiles)


def _shrunk(photo: NDArray[np.uint8]) -> NDArray[np.uint8]:
    height, width = photo.shape[:2]
    scale = SIDE / max(height, width)
    size = (max(1, round(scale * width)), max(1, round(scale * height)))
    how = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(photo, size, interpolation=how), np.uint8)
