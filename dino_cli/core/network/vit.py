"""The vision transformer: timm's blocks with DINO's position interpolation and initialisation."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import PatchEmbed, SwiGLUPacked
from timm.models.vision_transformer import VisionTransformer as TimmVisionTransformer
from torch import Tensor, nn

from dino_cli.core.network.architecture import Positions, VitArchitecture

__all__ = ["ConvStem", "VisionTransformer", "build_vit"]


class ConvStem(nn.Sequential):
    """Patch embedding by stride-2 3×3 convolutions, (B, C, H, W) → (B, D, H/p, W/p).

    log2(p) stages with batch norm and ReLU, then a 1×1 projection (Xiao et al. 2021). Raises
    `ValueError` unless the patch size is a power of two, at least 2.
    """

    def __init__(self, in_chans: int, width: int, patch_size: int) -> None:
        stages = int(math.log2(patch_size)) if patch_size > 1 else 0
        if stages < 1 or 2**stages != patch_size:
            raise ValueError(
                f"a convolutional stem needs a patch size of 2, 4, 8, …; not {patch_size}"
            )
        layers: list[nn.Module] = []
        channels = in_chans
        for stage in range(stages):
            wider = max(8, width // 2 ** (stages - 1 - stage))
            layers += [
                nn.Conv2d(channels, wider, 3, stride=2, padding=1, bias=False),
                nn.BatchNorm2d(wider),
                nn.ReLU(inplace=True),
            ]
            channels = wider
        super().__init__(*layers, nn.Conv2d(channels, width, 1))


class PatchEmbedding(PatchEmbed):  # type: ignore[misc]
    """timm's patch embedding of any image; in training as one matrix product.

    What is beyond the last whole patch is dropped, as by the reference's convolution. The product
    is the same, and its weights' gradient in bfloat16 takes, on a CPU, a fifth of the time of the
    convolution's. `pixels`: height and width of the last images, before anything was dropped.
    """

    pixels: tuple[int, int] = (0, 0)

    def forward(self, x: Tensor) -> Tensor:
        """Images (B, C, H, W) → patches (B, ⌊H/p⌋, ⌊W/p⌋, D)."""
        proj, (p, q) = self.proj, self.patch_size
        b, c, height, width = x.shape
        self.pixels = height, width
        rows, columns = height // p, width // q
        if isinstance(proj, nn.Conv2d) and not (self.training and proj.weight.requires_grad):
            embedded: Tensor = proj(x).permute(0, 2, 3, 1)
        elif isinstance(proj, nn.Conv2d):
            grid = x[..., : rows * p, : columns * q].reshape(b, c, rows, p, columns, q)
            patches = grid.permute(0, 2, 4, 1, 3, 5).flatten(3)
            embedded = F.linear(patches, proj.weight.flatten(1), proj.bias)
        else:
            embedded = proj(x[..., : rows * p, : columns * q]).permute(0, 2, 3, 1)
        normed: Tensor = self.norm(embedded)
        return normed


class VisionTransformer(TimmVisionTransformer):  # type: ignore[misc]
    """timm's vision transformer that resamples positions as the weights' family does.

    Parameter names are timm's, which are the reference's. Input (B, C, H, W) of any size from one
    patch on; pixels beyond the last whole patch are dropped. `forward` gives the CLS feature after
    the final norm, (B, D); `forward_features` all tokens after it, (B, P + h·w, D).
    """

    def __init__(self, *, positions: Positions = "dino", **kwargs: Any) -> None:
        self.positions: Positions = positions
        super().__init__(
            num_classes=0,
            global_pool="token",
            dynamic_img_size=True,
            embed_layer=PatchEmbedding,
            **kwargs,
        )
        nn.init.trunc_normal_(self.cls_token, std=0.02)  # timm starts it near zero

    def position_embedding(self, h: int, w: int, pixels: tuple[int, int] | None = None) -> Tensor:
        """The learned position embedding at h × w patches, (1, P or 0 + h·w, D).

        `dino` is the reference's `interpolate_pos_encoding`: its 0.1 makes the sampling grid differ
        slightly from the exact size, which the released weights expect. pixels: height and width
        of the image; where they are not in proportion to the trained grid, the reference resamples
        even to the trained size.
        """
        rows, columns = self.patch_embed.grid_size
        if (h, w) == (rows, columns):
            height, width = pixels or (h, w)
            if height * columns == width * rows or self.positions != "dino":
                return self.pos_embed  # type: ignore[no-any-return]
        prefix = 0 if self.no_embed_class else self.num_prefix_tokens
        patches = self.pos_embed[:, prefix:].reshape(1, rows, columns, -1).permute(0, 3, 1, 2)
        if self.positions == "dino":
            scale = ((h + 0.1) / rows, (w + 0.1) / columns)
            patches = F.interpolate(patches, scale_factor=scale, mode="bicubic")
        else:
            patches = F.interpolate(
                patches, size=(h, w), mode="bicubic", antialias=self.positions == "timm"
            )
        return torch.cat([self.pos_embed[:, :prefix], patches.flatten(2).transpose(1, 2)], dim=1)

    def _pos_embed(self, x: Tensor) -> Tensor:
        """Class token, registers and positions in front of patches (B, h, w, D)."""
        b, h, w, d = x.shape
        positions = self.position_embedding(h, w, self.patch_embed.pixels)
        tokens = x.reshape(b, h * w, d)
        prefix = [self.cls_token.expand(b, -1, -1)]
        if self.reg_token is not None:
            prefix.append(self.reg_token.expand(b, -1, -1))
        if self.no_embed_class:
            tokens = torch.cat([*prefix, tokens + positions], dim=1)
        else:
            tokens = torch.cat([*prefix, tokens], dim=1) + positions
        dropped: Tensor = self.pos_drop(tokens)
        return dropped


def build_vit(architecture: VitArchitecture, *, drop_path: float = 0.0) -> VisionTransformer:
    """A freshly initialised network (trunc_normal .02 for linear weights, positions and CLS)."""
    a = architecture
    norm: Callable[..., nn.Module] = partial(nn.LayerNorm, eps=a.eps)
    net = VisionTransformer(
        positions=a.positions,
        img_size=(a.grid[0] * a.patch_size, a.grid[1] * a.patch_size),
        patch_size=a.patch_size,
        in_chans=a.in_chans,
        embed_dim=a.width,
        depth=a.depth,
        num_heads=a.heads,
        mlp_ratio=a.mlp_ratio,
        init_values=1e-5 if a.layer_scale else None,
        reg_tokens=a.registers,
        no_embed_class=not a.embed_class,
        norm_layer=norm,
        drop_path_rate=drop_path,
        **({"mlp_layer": SwiGLUPacked, "act_layer": nn.SiLU} if a.swiglu else {}),
    )
    if a.conv_stem:
        net.patch_embed.proj = ConvStem(a.in_chans, a.width, a.patch_size)
    return net
