"""The pictures of a photo or frame on the page: what was found, and what each head saw."""

from collections.abc import Sequence
from dataclasses import dataclass

from dino_cli.core.masks.instances import Parts
from dino_cli.store.pages import Picture, heat, picture
from dino_cli.store.pictures.attention import PixelMask, Style, laid_over
from dino_cli.store.pictures.figures import PART_COLOURS, part_colour, point_marked, shrunk
from dino_cli.tasks.attention.look import AttentionResult
from dino_cli.tasks.photos.reading import LoadedPhoto
from dino_cli.tasks.photos.results import SIDE

__all__ = ["Objects", "Tiles", "tiles"]


@dataclass(frozen=True)
class Tiles:
    """The pictures of one photo: itself, its masks, and what each head attends to."""

    photo: Picture
    masks: list[tuple[str, Picture, "Objects | None"]]
    heads: list[tuple[str, Picture]]


@dataclass(frozen=True)
class Objects:
    """The scores of a mask's objects, each with the colour of its outline; more: not told here."""

    scores: list[tuple[str, str]]
    more: int


def tiles(
    photo: LoadedPhoto,
    seen: AttentionResult,
    fitted: Sequence[PixelMask],
    style: Style,
    best: int,
    point: tuple[float, float] | None,
) -> Tiles:
    """The tiles of one photo or frame."""
    view = small = shrunk(photo.view, SIDE)
    if point is not None:
        down, across = (s / n for s, n in zip(small.shape[:2], photo.layout.photo, strict=True))
        small = point_marked(small, (point[0] * down, point[1] * across), style.outline)
    masks = []
    for one in fitted:
        name = one.shown.name.replace("head", "head ")
        parts = f", {len(one.parts.scores)} objects" if one.parts is not None else ""
        alt = f"{name} mask over the photo{parts}"
        # Drawn at the size of the tile: what is drawn on a large photo would vanish in it.
        over = laid_over(view, one, style, captions=False)
        masks.append((name, picture(over, alt), _objects(one.parts)))
    mean = seen.attention.mean(dim=0).numpy()
    heads = [("mean", heat(mean, "mean attention of the heads", style.palette))]
    for head, attention in enumerate(seen.attention):
        name = f"head {head}" + (", best" if head == best else "")
        heads.append((name, heat(attention.numpy(), f"attention of head {head}", style.palette)))
    return Tiles(picture(small, "the photo"), masks, heads)


def _objects(parts: Parts | None) -> Objects | None:
    if parts is None:
        return None
    told = parts.scores[: len(PART_COLOURS)]  # then colours would be met again
    colours = ["#{:02x}{:02x}{:02x}".format(*part_colour(n + 1)) for n in range(len(told))]
    texts = [f"{score:.2f}" for score in told]
    return Objects(list(zip(colours, texts, strict=True)), len(parts.scores) - len(told))
