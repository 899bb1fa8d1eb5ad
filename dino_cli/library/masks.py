"""Pictures to masks of the salient object."""

from collections.abc import Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from dino_cli.config.attention import AttentionConfig
from dino_cli.config.ranges import check_choices
from dino_cli.config.shared import ModelOptions
from dino_cli.core.masks.refine import cut, guided_mask
from dino_cli.data.decoding.decode import UnreadableImage
from dino_cli.data.decoding.own_depth import read_input
from dino_cli.data.listing.images import find_images
from dino_cli.errors import TaskError, UsageError
from dino_cli.library.model import load_model
from dino_cli.library.pictures import Pictures, many_of, rgb_of
from dino_cli.progress import Reporter
from dino_cli.tasks.attention.look import AttentionResult
from dino_cli.tasks.attention.plan import AttentionPlan, plan, read_options
from dino_cli.tasks.attention.stills import look_at
from dino_cli.tasks.model import Model
from dino_cli.tasks.photos.reading import LoadedPhoto, Unfit, UnreadPhoto, groups_of

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
    batch_size: int = AttentionConfig.batch_size,
) -> list[Masks]:
    """One mask of the salient object for each picture.

    The same options give the masks of `dino attention`, but the defaults differ. The command's are
    the paper's, `masks="attention", refine="none"`, a mask for each head; here they are
    `masks="seeded", refine="guided"`, one better mask. `head` says which one it is of
    `masks="attention"`. Pictures of one size go through the network together, at most `batch_size`.

    Raises `UsageError` for no pictures, names mixed with pictures, one that is no RGB pixels,
    a network without attention of its class token, a head that it does not have, and options that
    cannot be. Raises `TaskError` for names that are not there, a file that cannot be read, a
    picture that is too small or becomes too large, a model that cannot be had, attention that is
    not finite, and too little memory.
    """
    many = many_of(images)
    opened = load_model(model) if isinstance(model, str) else model
    config = AttentionConfig(
        images=("given",),
        head=str(head),
        masks=masks,
        refine=refine,
        threshold=threshold,
        image_size=image_size,
        batch_size=batch_size,
    )
    check_choices(config)
    if isinstance(head, str) and head not in ("best", "mean"):
        raise UsageError(f"head={head!r} is not one head", "give its number, 'best' or 'mean'")
    asked = plan(config, read_options(config), Reporter(), opened)
    if all(isinstance(one, str | PathLike) for one in many):
        many = [file.path for file in find_images([str(one) for one in many])]
    made: dict[int, Masks] = {}
    photos = (_read(number, one, asked) for number, one in enumerate(many))
    for group in groups_of(photos, batch_size):
        assert not isinstance(group, UnreadPhoto)  # _read raises instead
        for photo, seen in zip(group, look_at(asked, group), strict=True):
            made[photo.index] = _mask(photo, seen, asked, _name(many[photo.index]))
    return [made[number] for number in range(len(many))]


def _name(picture: Pictures) -> str:
    return str(picture) if isinstance(picture, str | PathLike) else ""


def _read(number: int, picture: Pictures, asked: AttentionPlan) -> LoadedPhoto:
    path = _name(picture)
    told = repr(path) if path else f"picture {number}"
    try:
        image = read_input(Path(path), asked.reader.preprocessing) if path else rgb_of(picture)
        return asked.reader.photo(number, image)
    except Unfit as error:
        what = f"cannot use {told}: {error.error.what}"
        raise TaskError(what, "stretch it with image_size='480x480', height x width") from None
    except (UnreadableImage, ValueError) as error:
        raise TaskError(f"cannot use {told}: {error}", "give another") from None


def _mask(photo: LoadedPhoto, seen: AttentionResult, asked: AttentionPlan, path: str) -> Masks:
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
