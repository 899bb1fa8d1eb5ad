"""A backbone and a head over views of several resolutions (paper, section 3.1, multi-crop)."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from dino_cli.core.training.droppath import replace_drop_path
from dino_cli.core.training.head import DinoHead

__all__ = ["MultiCrop"]


class MultiCrop(nn.Module):
    """One backbone forward per resolution, one head forward over all views.

    Called with one tensor (V_i · B, C, H_i, W_i) per resolution, view-major: all images of the
    first view, then all of the second. Returns logits (V · B, K) in the same order. `masks`, one
    (layers, V_i · B) per resolution from `core.training.droppath`, switches stochastic depth on.
    """

    def __init__(self, backbone: nn.Module, head: DinoHead) -> None:
        super().__init__()
        self.drop_paths = replace_drop_path(backbone)
        self.backbone = backbone
        self.head = head

    def forward(
        self, groups: Sequence[Tensor], masks: Sequence[Tensor] = (), *, with_features: bool = False
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Logits; `with_features` (logits, the backbone's features (V · B, D))."""
        features = []
        for i, views in enumerate(groups):
            if masks:
                for layer, mask in zip(self.drop_paths, masks[i], strict=True):
                    layer.use(mask)
            features.append(self.backbone(views))
            for layer in self.drop_paths:
                layer.use(None)
        together = torch.cat(features)
        logits: Tensor = self.head(together)
        return (logits, together) if with_features else logits
