"""From what the network saw to what is kept of one photo or frame: pictures, COCO, a card."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dino_cli.store.coco import Segmentation, annotation
from dino_cli.store.pictures.attention import (
    MaskPicture,
    PixelMask,
    attention_pictures,
    fitted_masks,
)
from dino_cli.tasks.attention.gallery import Tiles, tiles
from dino_cli.tasks.attention.look import AttentionResult, head_tiles, mask_pictures
from dino_cli.tasks.attention.plan import AttentionPlan
from dino_cli.tasks.photos.reading import LoadedPhoto

__all__ = ["DrawnResults", "draw"]


@dataclass(frozen=True)
class DrawnResults:
    """pictures: by name without suffix, when asked for; annotations: of each COCO file; tiles: of
    the gallery; facts: for the result's row."""

    pictures: Mapping[str, Any]
    annotations: Mapping[Segmentation, list[dict[str, Any]]]
    tiles: Tiles | None
    facts: dict[str, Any]


def draw(
    plan: AttentionPlan, photo: LoadedPhoto, seen: AttentionResult, *, best: int, page: bool
) -> DrawnResults:
    """Everything that is kept of a photo. best: the head that stands for `best`."""
    asked = plan.asked
    ones = mask_pictures(seen, asked.chosen, plan.config.masks, best)
    fitted = fitted_masks(photo.view, photo.layout, ones, asked.style)
    point = asked.query.at(photo.layout.photo) if asked.query is not None else None
    pictures: Mapping[str, Any] = {}
    if asked.pictures:
        pictures = attention_pictures(
            photo.view, photo.layout, ones, fitted, head_tiles(seen, best), asked.style, point
        )
    facts: dict[str, Any] = {
        "size": list(photo.layout.photo),
        "grid": list(photo.layout.grid),
        "heads": len(seen.attention),
        "best_head": best,
    }
    if seen.whole is not None:
        facts |= {"score": round(seen.score, 4), "guess": ones[0].guess}
    if asked.style.instances:
        facts["instances"] = {
            one.shown.name: len(one.parts.scores) for one in fitted if one.parts is not None
        }
    return DrawnResults(
        pictures,
        {kind: _annotations(plan.categories, fitted, kind) for kind in asked.coco},
        tiles(photo, seen, fitted, asked.style, best, point) if page else None,
        facts,
    )


def _annotations(
    categories: Sequence[str], fitted: Sequence[PixelMask], kind: Segmentation
) -> list[dict[str, Any]]:
    made = []
    for one in fitted:
        category = categories.index(one.shown.name) + 1
        guess: dict[str, Any] = {"guess": True} if one.shown.guess else {}
        masks = [(one.full, _score(one.shown))]
        if one.parts is not None:
            masks = [(one.parts.mask(n), s) for n, s in enumerate(one.parts.scores, 1)]
        made += [
            annotation(mask, kind, category_id=category, score=score, **guess)
            for mask, score in masks
        ]
    return [one for one in made if one is not None]


def _score(one: MaskPicture) -> float:
    return round(one.score, 4)
