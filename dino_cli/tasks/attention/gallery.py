"""The page that shows all photos and videos of a run: what was found, and what each head saw."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from dino_cli import __version__
from dino_cli.store.pages import Picture, heat, picture
from dino_cli.store.pictures.attention import Fitted, Shown, Style, laid_over
from dino_cli.store.pictures.figures import point_marked
from dino_cli.tasks.attention.look import Seen

__all__ = ["MOST_CARDS", "Tiles", "card", "gallery", "tiles"]

MOST_CARDS = 400  # inputs on the page; of some 60 KB each
SIDE = 360  # pixels of a tile


@dataclass(frozen=True)
class Tiles:
    """The pictures of one photo: itself, its masks, and what each head attends to."""

    photo: Picture
    masks: list[tuple[str, Picture]]
    heads: list[tuple[str, Picture]]


def tiles(
    photo: Any,
    seen: Seen,
    shown: Sequence[Shown],
    fitted: Sequence[Fitted],
    style: Style,
    best: int,
    point: tuple[float, float] | None,
) -> Tiles:
    """The tiles of one photo or frame; photo: with `view` and `layout`."""
    small = _small(photo.view)
    if point is not None:
        down, across = (s / n for s, n in zip(small.shape[:2], photo.layout.photo, strict=True))
        small = point_marked(small, (point[0] * down, point[1] * across), style.outline)
    masks = []
    for one in fitted:
        name = one.shown.name.replace("head", "head ")
        parts = f", {len(one.parts.scores)} objects" if one.parts is not None else ""
        alt = f"{name} mask over the photo{parts}"
        masks.append((name, picture(_small(laid_over(photo.view, one, style)), alt)))
    mean = seen.attention.mean(dim=0).numpy()
    heads = [("mean", heat(mean, "mean attention of the heads", style.palette))]
    for head, attention in enumerate(seen.attention):
        name = f"head {head}" + (", best" if head == best else "")
        heads.append((name, heat(attention.numpy(), f"attention of head {head}", style.palette)))
    return Tiles(picture(small, "the photo"), masks, heads)


def card(row: Mapping[str, Any], name: str, seen: Sequence[tuple[str, Tiles]]) -> dict[str, Any]:
    """One input on the page. seen: a caption and its tiles; of a video several frames."""
    return {"name": name, "row": row, "views": seen}


def gallery(
    cards: Sequence[Mapping[str, Any]], total: int, facts: Mapping[str, Any]
) -> dict[str, Any]:
    """The values of the template. total: inputs that were done, of which some may have no card."""
    return {
        "title": "dino attention",
        "whole": any("score" in card["row"] for card in cards),
        "cards": cards,
        "total": total,
        "guesses": sum(bool(card["row"].get("guess")) for card in cards),
        "facts": facts,
        "version": __version__,
    }


def _small(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    scale = min(1.0, SIDE / max(pixels.shape[:2]))
    size = (max(1, round(pixels.shape[1] * scale)), max(1, round(pixels.shape[0] * scale)))
    return np.asarray(cv2.resize(pixels, size, interpolation=cv2.INTER_AREA), np.uint8)
