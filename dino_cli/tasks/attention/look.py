"""One forward pass over a batch of pictures, and the masks of patches that follow from it."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dino_cli.config.attention import AttentionConfig
from dino_cli.config.shared import Preprocessing
from dino_cli.core.masks.objects import (
    GUESS_BELOW,
    certainties,
    cut_masks,
    head_overlaps,
    overlap,
    seeded_masks,
    token_masks,
)
from dino_cli.core.masks.threshold import threshold_mass
from dino_cli.data.preprocess import normalize
from dino_cli.store.pictures.attention import HeadTile, MaskPicture
from dino_cli.tasks.model import Model

__all__ = ["AttentionResult", "attend", "head_tiles", "mask_pictures"]


@dataclass(frozen=True)
class AttentionResult:
    """What one forward pass gave for a photo, on the CPU; `h` × `w` patches.

    attention: (H, h, w) float32; masks: (H + 1, h, w) bool, of each head and of their mean;
    overlaps: (H + 1,) of these masks with the seeded one; best: the head chosen without truth;
    whole: the photo's one mask (h, w), when that is asked for; certainty: (h, w) float32, how
    clearly each patch lies inside or outside the seeded mask; score: how far the whole mask is to
    be trusted, 0 to 1. That is the share of clear patches, of a cut the overlap with the seeded
    mask: what told good from bad best where it was measured.
    """

    attention: Tensor
    masks: Tensor
    overlaps: tuple[float, ...]
    best: int
    whole: Tensor | None
    certainty: Tensor
    score: float


def attend(
    model: Model,
    pixels: Tensor,
    p: Preprocessing,
    config: AttentionConfig,
    asking: Sequence[int] | None = None,
) -> list[AttentionResult]:
    """Attention and masks of uint8 pixels (B, 3, H, W).

    asking: of each picture the number of the patch that asks, instead of CLS.
    """
    numbers = torch.tensor(asking, device=model.device) if asking is not None else None
    tokens = None
    with model.forward(pixels):
        x = normalize(pixels, p, model.device)
        if config.masks == "tokens":
            heads, keys, tokens = model.backbone.attention_keys_and_tokens(
                x, layer=config.layer, asking=numbers
            )
        else:
            heads, keys = model.backbone.cls_attention_and_keys(
                x, layer=config.layer, asking=numbers
            )
    model.check_finite(heads, "attention")
    seeded = seeded_masks(heads, keys)
    certain = certainties(keys, seeded).cpu()
    scores, whole = certain.mean((1, 2)), None
    if config.masks == "seeded":
        whole = seeded
    elif config.masks == "cut":
        whole = cut_masks(heads, keys)
        scores = overlap(whole, seeded)
    elif tokens is not None:
        whole = token_masks(heads, tokens)
    heads = heads.cpu()
    heads_and_mean = torch.cat([heads, heads.mean(dim=1, keepdim=True)], dim=1)
    masks = threshold_mass(heads_and_mean, config.threshold)
    overlaps = head_overlaps(masks, seeded)
    best = overlaps[:, :-1].argmax(dim=1).tolist()
    return [
        AttentionResult(
            heads[i],
            masks[i],
            tuple(overlaps[i].tolist()),
            best[i],
            whole[i] if whole is not None else None,
            certain[i],
            float(scores[i]),
        )
        for i in range(len(pixels))
    ]


def mask_pictures(
    seen: AttentionResult, chosen: Sequence[int | str], masks: str, best: int
) -> list[MaskPicture]:
    """What gets pictures of its own: the photo's one mask if there is one, and the chosen heads.

    best: the head to take for `best`; of a frame its video's, not its own.
    """
    result = []
    if seen.whole is not None:
        guess = seen.score < GUESS_BELOW[masks]
        result.append(
            MaskPicture(
                masks,
                mask=seen.whole.numpy(),
                score=seen.score,
                certainty=seen.certainty.numpy(),
                guess=guess,
            )
        )
    count = len(seen.attention)
    for choice in chosen:
        for head in range(count) if choice == "all" else [choice]:
            name = head if isinstance(head, str) else f"head{head}"
            found = {"mean": count, "best": best}
            index = found.get(str(head), head)
            assert isinstance(index, int)
            heat = seen.attention.mean(dim=0) if head == "mean" else seen.attention[index]
            mask = seen.masks[index].numpy() if seen.whole is None else None
            result.append(MaskPicture(name, heat.numpy(), mask, score=seen.overlaps[index]))
    return list({one.name: one for one in result}.values())


def head_tiles(seen: AttentionResult, best: int) -> list[HeadTile]:
    """The tiles of the grid: the heads' mean, then every head, one of them marked as best."""
    mean = HeadTile("mean", seen.attention.mean(dim=0).numpy(), seen.masks[-1].numpy())
    heads = [
        HeadTile(
            f"head {head}, best" if head == best else f"head {head}",
            attention.numpy(),
            mask.numpy(),
            marked=head == best,
        )
        for head, (attention, mask) in enumerate(zip(seen.attention, seen.masks[:-1], strict=True))
    ]
    return [mean, *heads]
