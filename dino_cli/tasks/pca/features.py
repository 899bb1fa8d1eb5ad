"""What the network says about the patches of some photos, and which of them are foreground."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dino_cli.core.masks.objects import token_masks
from dino_cli.core.pca.colours import (
    BorderSplit,
    Components,
    fit_border_split,
    fit_components,
)
from dino_cli.data.preprocess import normalize
from dino_cli.tasks.pca.plan import PcaPlan
from dino_cli.tasks.photos.reading import LoadedPhoto, stacked

__all__ = ["FittedColours", "PatchFeatures", "extract_patches", "fit"]


@dataclass(frozen=True)
class PatchFeatures:
    """Of one photo, on the CPU: features (N, D) float16, or float32 where that overflows; grid
    (h, w); inside: bool (N,), what the class token says is foreground, or None when there is none
    to ask."""

    features: Tensor
    grid: tuple[int, int]
    inside: Tensor | None


@dataclass(frozen=True)
class FittedColours:
    """The colours, and how foreground is told without attention, when that was needed."""

    components: Components
    split: BorderSplit | None

    def inside(self, one: PatchFeatures) -> Tensor:
        """Foreground of a photo, bool (N,); everything, when it is not told apart."""
        if one.inside is not None:
            return one.inside
        if self.split is not None:
            return self.split.inside(one.features)
        return torch.ones(len(one.features), dtype=torch.bool)


def extract_patches(plan: PcaPlan, photos: Sequence[LoadedPhoto]) -> list[PatchFeatures]:
    """One forward pass over photos of one shape."""
    model, config = plan.model, plan.config
    x = normalize(stacked(photos), plan.reader.preprocessing, model.device)
    attention = tokens = inside = None
    with model.forward(x):
        if model.backbone.has_attention:
            attention, keys, tokens = model.backbone.attention_keys_and_tokens(x)
            features = keys if config.features == "keys" else tokens
        else:
            features = model.backbone.patch_tokens(x)
    if config.foreground and attention is not None and tokens is not None:
        # Outside of autocast, as everywhere: it would round the means to half precision.
        inside = token_masks(attention, tokens).flatten(1)
    model.check_finite(features)
    whole = features.float().cpu()
    half = whole.half()
    kept = half if half.isfinite().all() else whole
    return [
        PatchFeatures(kept[i], photos[i].layout.grid, inside[i] if inside is not None else None)
        for i in range(len(photos))
    ]


def fit(seen: Sequence[PatchFeatures], *, foreground: bool) -> FittedColours:
    """Colours that fit these photos together."""
    features = [one.features for one in seen]
    split = None
    if foreground and any(one.inside is None for one in seen):
        split = fit_border_split(features, [one.grid for one in seen])
    told = FittedColours(Components(*[torch.zeros(1)] * 5), split)
    inside = [told.inside(one) for one in seen]
    return FittedColours(fit_components(features, inside), split)
