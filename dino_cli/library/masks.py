"""Pictures to masks of the salient object."""

from collections.abc import Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from dino_cli.config.attention import AttentionConfig
from dino_cli.config.shared import ModelOptions
from dino_cli.core.masks.refine import cut, guided_mask
from dino_cli.data.decoding.decode import UnreadableImage, read_image
from dino_cli.data.listing.images import find_images
from dino_cli.errors import TaskError
from dino_cli.library.model import load_model
from dino_cli.library.pictures import Pictures, many_of, rgb_of
from dino_cli.progress import Reporter
from dino_cli.tasks.attention.photos import photo_of
from dino_cli.tasks.attention.plan import Plan, plan, read_options
from dino_cli.tasks.attention.stills import look_at
from dino_cli.tasks.model import Model

__all__ = ["Masks", "attention_masks"]


@dataclass(frozen=True)
class Masks:
    """What was found in one picture of H × W pixels, cut into h × w patches.

    mask: bool (H, W); attention: float32 (heads, h, w), of the class token, softmax over all
    tokens; best_head: chosen without truth; score: 0 to 1, how far the mask is to be trusted; path:
    of its file, "" in memory.
    """

    mask: NDArray[np.bool_]
    attention: NDArray[np.float32]
    best_head: int
    score: float
    path: str = ""


def attention_masks(
    images: Pictures | Sequence[Pictures],
    model: Model | str = ModelOptions.model,
    *,
    masks: Literal["attention", "seeded", "tokens", "cut"] = "seeded",
    head: int | Literal["best", "mean"] = "best",
    refine: Literal["none", "guided"] = "guided",
    threshold: float = AttentionConfig.threshold,
    image_size: str | None = None,
) -> list[Masks]:
    """One mask of the salient object for each picture, as `dino attention` makes them.

    masks: see there; `head` is for `attention`. Raises `TaskError` for a file that is no picture.
    """
    opened = load_model(model) if isinstance(model, str) else model
    config = AttentionConfig(
        images=("given",),
        head=str(head),
        masks=masks,
        refine=refine,
        threshold=threshold,
        image_size=image_size,
    )
    asked = plan(config, read_options(config), Reporter(), opened)
    many = many_of(images)
    if all(isinstance(one, str | PathLike) for one in many):
        many = [file.path for file in find_images([str(one) for one in many])]
    return [_look(one, asked) for one in many]


def _look(picture: Pictures, asked: Plan) -> Masks:
    path = str(picture) if isinstance(picture, str | PathLike) else ""
    try:
        image = read_image(Path(path)) if path else rgb_of(picture)
        photo = photo_of(0, image, asked.preprocessing, asked.patch, None)
    except (UnreadableImage, ValueError) as error:
        raise TaskError(f"cannot use {path or 'a picture'!r}: {error}", "give another") from None
    seen = look_at(asked, [photo])[0]
    if seen.whole is not None:
        mask, score = seen.whole.numpy(), seen.score
    else:
        chosen = asked.asked.chosen[0]
        index = {"best": seen.best, "mean": len(seen.attention)}.get(str(chosen), chosen)
        mask, score = seen.masks[int(index)].numpy(), seen.overlaps[int(index)]
    whole = np.asarray(photo.layout.enlarge(mask), np.bool_)
    if asked.config.refine == "guided":
        rows, columns = photo.layout.at((photo.view.shape[0], photo.view.shape[1])).covered
        soft = guided_mask(mask, np.ascontiguousarray(photo.view[:rows, :columns]))
        fitted = cut(soft, photo.layout.covered)
        whole = np.zeros(photo.layout.photo, np.bool_)
        whole[: fitted.shape[0], : fitted.shape[1]] = fitted
    return Masks(whole, seen.attention.numpy(), seen.best, score, path)
