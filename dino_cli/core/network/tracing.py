"""A backbone as one function of a batch, traceable for any batch and image size.

Symbols: B images, H heads, D features, (h, w) patches of the images, n = h or w.
"""

from typing import Any, Literal

import torch
from timm.layers import RotaryEmbeddingDinoV3
from torch import Tensor, nn

from dino_cli.core.network.architecture import Positions
from dino_cli.core.network.attention import block_input, has_class_token, row_and_keys
from dino_cli.core.network.vit import VisionTransformer

__all__ = ["Exportable", "ExportedKind", "resampling"]

ExportedKind = Literal["cls", "cls+mean", "patch"]

PLAIN, ANTIALIASED = -0.75, -0.5  # parameter `a` of PyTorch's two bicubic kernels


class Exportable(nn.Module):
    """Normalised images (B, C, height, width), float32 → features of a `kind`.

    kind: "cls", the class token (B, D), or what a network without one pools; "cls+mean", with the
    mean of the patch tokens behind it (B, 2D); "patch", the patch tokens (B, h, w, D). attention:
    return also the last block's attention of the class token to the patches, (B, H, h, w), softmax
    over all tokens.
    Computes what `core.network.backbone.Backbone` does with nothing that a tracer cannot follow:
    positions are resampled by two small matrix products, which hold for any size. Changes `net`.
    """

    def __init__(
        self, net: nn.Module, *, kind: ExportedKind = "cls", attention: bool = False
    ) -> None:
        super().__init__()
        self.net: Any = net.eval()
        self.kind, self.attention = kind, attention
        if isinstance(net, VisionTransformer):
            net.position_embedding = self._positions  # type: ignore[method-assign]
        rope = getattr(net, "rope", None)
        if isinstance(rope, RotaryEmbeddingDinoV3):
            rope.get_embed = self._rotations

    def forward(self, images: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        if not self.attention:
            return self._features(self.net.forward_features(images), images)
        with block_input(self.net) as seen:
            tokens = self.net.forward_features(images)
        rows = row_and_keys(self.net, *seen[0])[0][:, :, self.net.num_prefix_tokens :]
        h, w = self._grid(images)
        return self._features(tokens, images), rows.reshape(rows.shape[0], rows.shape[1], h, w)

    def _grid(self, images: Tensor) -> tuple[int, int]:
        patch_size = self.net.patch_embed.patch_size[0]
        return images.shape[-2] // patch_size, images.shape[-1] // patch_size

    def _features(self, tokens: Tensor, images: Tensor) -> Tensor:
        prefix = int(getattr(self.net, "num_prefix_tokens", 0))
        if self.kind == "patch":
            h, w = self._grid(images)
            return tokens[:, prefix:].reshape(tokens.shape[0], h, w, tokens.shape[2])
        if isinstance(tokens, Tensor) and tokens.ndim == 3 and has_class_token(self.net):
            pooled = tokens[:, 0]
        else:
            pooled = self.net.forward_head(tokens, pre_logits=True)
        if self.kind == "cls+mean":
            return torch.cat([pooled, tokens[:, prefix:].mean(dim=1)], dim=1)
        return pooled

    def _positions(self, h: int, w: int, pixels: Any = None) -> Tensor:
        """As `VisionTransformer.position_embedding`, without a branch on the size.

        An image that is trimmed to the trained grid is taken to have its proportions.
        """
        net = self.net
        rows, columns = net.patch_embed.grid_size
        prefix = 0 if net.no_embed_class else net.num_prefix_tokens
        patches = net.pos_embed[:, prefix:].reshape(rows, columns, -1)
        down = torch.arange(h, dtype=torch.float32, device=patches.device)
        along = torch.arange(w, dtype=torch.float32, device=patches.device)
        # The reference adds its 0.1 to both sides unless both are the trained ones.
        other = (down[-1] + 1 != rows) | (along[-1] + 1 != columns)
        offset = 0.1 * other.float()
        spread = torch.einsum(
            "hr,rcd,wc->hwd",
            resampling(down, rows, net.positions, offset),
            patches,
            resampling(along, columns, net.positions, offset),
        )
        return torch.cat([net.pos_embed[:, :prefix], spread.reshape(1, h * w, -1)], dim=1)

    def _rotations(self, shape: tuple[int, int]) -> Tensor:
        """DINOv3's rotary positions, (h·w, 2 · head width); timm's divides by a frozen size."""
        rope = self.net.rope
        sides = []
        for side in shape:
            at = torch.arange(side, dtype=torch.float32, device=rope.periods.device)
            sides.append((at + 0.5) / (at[-1] + 1) * 2 - 1)
        grid = torch.stack(torch.meshgrid(*sides, indexing="ij"), dim=-1).flatten(0, 1)
        return torch.cat(rope._get_pos_embed_from_coords(grid), dim=-1)


def resampling(at: Tensor, source: int, positions: Positions, offset: Tensor) -> Tensor:
    """The matrix (n, source) by which bicubic interpolation makes n samples of `source`.

    at: 0, 1, … n - 1, float32 (n,). positions: as of `VitArchitecture`. offset: what the reference
    adds to n in the scale, for "dino". Equals `F.interpolate` with `align_corners=False`: taps
    beyond an edge repeat it; antialiased, they are left out.
    """
    n = at[-1] + 1
    step = source / (n + offset if positions == "dino" else n)
    index = torch.arange(source, dtype=torch.float32, device=at.device)
    if positions == "timm":
        wide = step.clamp(min=1)
        away = (index + 0.5 - ((at + 0.5) * step)[:, None]) / wide
        weights = cubic(away, ANTIALIASED)
        return weights / weights.sum(dim=1, keepdim=True)
    centre = (at + 0.5) * step - 0.5
    first = centre.floor()
    matrix = torch.zeros_like(centre[:, None] * index)
    for tap in (-1, 0, 1, 2):
        hit = (first + tap).clamp(0, source - 1)[:, None] == index
        matrix = matrix + hit * cubic(first + tap - centre, PLAIN)[:, None]
    return matrix


def cubic(x: Tensor, a: float) -> Tensor:
    """The cubic convolution kernel (Keys 1981) at distance x, zero from 2 on."""
    d = x.abs()
    near = ((a + 2) * d - (a + 3)) * d * d + 1
    far = (((d - 5) * d + 8) * d - 4) * a
    return torch.where(d <= 1, near, torch.where(d < 2, far, torch.zeros_like(d)))
