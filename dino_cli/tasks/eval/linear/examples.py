"""Validation images for the page, from the most clearly right to the most clearly wrong."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from dino_cli.config.eval_linear import EvalLinearConfig
from dino_cli.data.listing.image_list import ImageFile
from dino_cli.progress import Reporter
from dino_cli.tasks.eval.report import Example, spread
from dino_cli.tasks.eval.tiles import photo_tiles

__all__ = ["choose_examples", "examples"]


def choose_examples(
    files: Sequence[ImageFile], logits: Tensor, labels: Tensor, classes: Sequence[str]
) -> list[dict[str, Any]]:
    """Six images, evenly spread over the order by the probability of their class.

    logits: (N, classes) of the N files; labels: int64 (N,).
    """
    own = logits.softmax(dim=1).gather(1, labels[:, None])[:, 0].cpu()
    named = logits.argmax(dim=1).tolist()
    order = own.argsort(descending=True, stable=True).tolist()
    return [
        {
            "path": files[i].path.as_posix(),
            "label": files[i].label,
            "predicted": classes[named[i]],
            "probability": float(own[i]),
        }
        for i in (order[place] for place in spread(len(order)))
    ]


def examples(
    config: EvalLinearConfig, result: Mapping[str, Any], _reporter: Reporter
) -> list[Example]:
    """The images that `result["examples"]` names, in one row."""
    photos = [(one["path"], _caption(one), one["probability"]) for one in result["examples"]]
    tiles = photo_tiles(photos, exif=config.exif)
    title = "The probability of the right class, from the highest to the lowest"
    return [Example(title=title, tiles=tiles)] if tiles else []


def _caption(one: Mapping[str, Any]) -> str:
    if one["predicted"] == one["label"]:
        return str(one["label"])
    return f"{one['label']}, taken for {one['predicted']}"
