"""Stochastic depth whose masks are known before the forward pass.

timm draws them from the global generator, per process. Here they come from (seed, step), are drawn
for the whole batch of all ranks and sliced, so that ranks, workers and interruptions do not change
a run.
"""

from collections.abc import Sequence

import torch
from timm.layers import DropPath as TimmDropPath
from torch import Tensor, nn

__all__ = ["DropPath", "draw_masks", "replace_drop_path"]


class DropPath(nn.Module):
    """Multiplies each sample of a residual branch by 0 or 1 / (1 - rate), as `draw_masks` says.

    `use(mask)` holds until `use(None)` after the forward pass, however often the network calls the
    layer in it, and for its repetition under activation checkpointing (told from another
    resolution's by the shape). In eval mode, or without a mask, the branch passes through.
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate
        self._now: Tensor | None = None
        self._masks: dict[torch.Size, Tensor] = {}

    def use(self, mask: Tensor | None) -> None:
        """mask: (samples,), 0 or 1 / (1 - rate)."""
        self._now = mask

    def forward(self, x: Tensor) -> Tensor:
        if self._now is not None:
            self._masks[x.shape] = self._now
        mask = self._masks.get(x.shape)
        if mask is None or not self.training:
            return x
        if len(mask) != len(x):  # windows of a sample one after the other (SAM, MobileViT)
            mask = mask.repeat_interleave(len(x) // len(mask))
        return x * mask.to(x.dtype).view(-1, *[1] * (x.ndim - 1))


def replace_drop_path(net: nn.Module) -> list[DropPath]:
    """Put our layer in place of every timm DropPath of `net`; the new layers, in module order."""
    layers = []
    for parent in list(net.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, TimmDropPath):
                layer = DropPath(float(child.drop_prob or 0.0))
                setattr(parent, name, layer)
                layers.append(layer)
    return layers


def draw_masks(
    rates: Sequence[float], *, key: Sequence[int], views: int, images: int, share: slice
) -> Tensor:
    """Masks for one forward pass over `views` views of `share` of a batch of `images` images.

    key: what they are drawn from (seed, step, resolution). Returns float32 (layers, V · B),
    view-major: 0 with probability rate, else 1 / (1 - rate) (Huang et al. 2016). Drawn on the CPU.
    """
    generator = torch.Generator()
    generator.manual_seed(_mixed(key))
    uniform = torch.rand(len(rates), views, images, generator=generator)[:, :, share]
    keep = 1 - torch.tensor(rates, dtype=torch.float32).view(-1, 1, 1)
    return ((uniform < keep) / keep).flatten(1)


def _mixed(key: Sequence[int]) -> int:
    """One 63-bit seed from several integers (splitmix64 over the sequence)."""
    state = 0x9E3779B97F4A7C15
    for value in key:
        state = (state ^ (value & 0xFFFFFFFFFFFFFFFF)) * 0xBF58476D1CE4E5B9 & 0xFFFFFFFFFFFFFFFF
        state = (state ^ (state >> 27)) * 0x94D049BB133111EB & 0xFFFFFFFFFFFFFFFF
        state ^= state >> 31
    return state >> 1
