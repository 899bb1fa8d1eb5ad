"""What one image's masks are worth against its label map."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dino_cli.config.shared import Preprocessing
from dino_cli.core.evaluation.overlaps import Objects, bounding_box, box_overlap, centre_box
from dino_cli.core.masks.objects import (
    best_heads,
    components,
    cut_masks,
    seeded_masks,
    token_masks,
)
from dino_cli.core.masks.refine import cut, guided_mask
from dino_cli.core.masks.threshold import threshold_mass
from dino_cli.data.preprocess import normalize
from dino_cli.tasks.model import Model

__all__ = ["ImageScore", "MaskSet", "find_masks", "mean_scores", "score"]

LOCATED = 0.5  # overlap of boxes from which an object counts as found
Masks = NDArray[np.bool_]


@dataclass(frozen=True)
class MaskSet:
    """Masks of patches from one forward pass: of each head (H, h, w), and single ones (h, w).

    singles: `mean`, and where everything was asked for `seeded`, `tokens` and `cut`. chosen: the
    head that was chosen without truth, or None.
    """

    heads: Masks
    singles: Mapping[str, Masks]
    chosen: int | None


@dataclass(frozen=True)
class ImageScore:
    """Of one image. objects: O; heads: overlap of each object with each head, (O, H).

    jaccard, guided: mean over the objects by kind of mask; located: whether the box of the mask
    fits one of the objects' boxes.
    """

    objects: int
    heads: NDArray[np.float64]
    jaccard: Mapping[str, float]
    guided: Mapping[str, float] = field(default_factory=dict)
    located: Mapping[str, float] = field(default_factory=dict)


def find_masks(
    model: Model, pixels: Tensor, p: Preprocessing, threshold: float, *, everything: bool
) -> list[MaskSet]:
    """One forward pass over uint8 pixels (B, 3, H, W).

    everything: also the masks from keys and tokens. Raises `TaskError` for what the device cannot
    do.
    """
    with model.forward(pixels):
        x = normalize(pixels, p, model.device)
        if everything:
            heads, keys, tokens = model.backbone.attention_keys_and_tokens(x)
        else:  # spares the rest of the last block
            heads = model.backbone.cls_attention(x)
    model.check_finite(heads, "attention")
    whole: dict[str, Tensor] = {}
    chosen: Sequence[int | None] = [None] * len(pixels)
    if everything:
        whole = {
            "seeded": seeded_masks(heads, keys),
            "tokens": token_masks(heads, tokens),
            "cut": cut_masks(heads, keys),
        }
        chosen = best_heads(heads, whole["seeded"], threshold)
    heads = heads.cpu()
    masks = threshold_mass(torch.cat([heads, heads.mean(dim=1, keepdim=True)], 1), threshold)
    kept = masks.numpy()
    return [
        MaskSet(
            kept[i, :-1],
            {"mean": kept[i, -1], **{name: mask[i].numpy() for name, mask in whole.items()}},
            chosen[i],
        )
        for i in range(len(pixels))
    ]


def score(
    seen: MaskSet, objects: Objects, photo: NDArray[np.uint8] | None, patch_size: int
) -> ImageScore:
    """photo: uint8 (h·p, w·p, 3), to fit the masks to its edges; None leaves that out."""
    per_head = objects.overlaps(seen.heads, patch_size)
    jaccard = _by_kind(per_head, seen, objects, patch_size)
    height, width = objects.maps.shape[1:]
    fixed = {"centre_box": centre_box(height, width), "everything": np.ones((height, width), bool)}
    if seen.chosen is not None:
        jaccard |= {n: float(objects.overlaps(m[None])[:, 0].mean()) for n, m in fixed.items()}
    guided: dict[str, float] = {}
    if photo is not None:
        size = (photo.shape[0], photo.shape[1])
        fitted = MaskSet(
            np.stack([cut(guided_mask(mask, photo), size) for mask in seen.heads]),
            {name: cut(guided_mask(m, photo), size) for name, m in seen.singles.items()},
            seen.chosen,
        )
        guided = _by_kind(objects.overlaps(fitted.heads), fitted, objects, 1)
    located: dict[str, float] = {}
    if seen.chosen is not None:
        truth = [bounding_box(one) for one in objects.maps]
        masks = {**seen.singles, "chosen": seen.heads[seen.chosen]}
        boxes = {
            name: _scaled(bounding_box(_largest(mask)), patch_size) for name, mask in masks.items()
        }
        boxes |= {name: bounding_box(mask) for name, mask in fixed.items()}
        located = {
            name: float(max(box_overlap(box, one) for one in truth) >= LOCATED)
            for name, box in boxes.items()
        }
    return ImageScore(len(objects.labels), per_head, jaccard, guided, located)


def _by_kind(
    per_head: NDArray[np.float64], seen: MaskSet, objects: Objects, patch_size: int
) -> dict[str, float]:
    """Mean over the objects; `best` takes for each object the head that fits it best."""
    kinds = {"best": float(per_head.max(axis=1).mean())}
    for name, mask in seen.singles.items():
        kinds[name] = float(objects.overlaps(mask[None], patch_size)[:, 0].mean())
    if seen.chosen is not None:
        kinds["chosen"] = float(per_head[:, seen.chosen].mean())
    return kinds


def _largest(mask: Masks) -> Masks:
    """The largest connected part, whose box is meant (TokenCut takes one part, too)."""
    labels = components(mask)
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    return np.asarray(labels == sizes.argmax()) & mask


def _scaled(box: tuple[int, int, int, int], patch_size: int) -> tuple[int, int, int, int]:
    top, left, bottom, right = box
    return top * patch_size, left * patch_size, bottom * patch_size, right * patch_size


def mean_scores(scores: Sequence[ImageScore]) -> dict[str, Any]:
    """Means over the images: `jaccard`, `heads`, and `guided`, `corloc` where they were made."""

    def means(of: Sequence[Mapping[str, float]]) -> dict[str, float]:
        return {kind: float(np.mean([one[kind] for one in of])) for kind in of[0]}

    result: dict[str, Any] = {
        "jaccard": means([one.jaccard for one in scores]),
        "heads": np.mean([one.heads.mean(axis=0) for one in scores], axis=0).tolist(),
    }
    if scores[0].guided:
        result["guided"] = means([one.guided for one in scores])
    if scores[0].located:
        result["corloc"] = means([one.located for one in scores])
    return result
