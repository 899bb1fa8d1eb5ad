"""Features of every kind from one forward pass, at one scale or several.

Shapes: B images, N = h · w patches, P prefix tokens (CLS, registers), D features.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from dino_cli.core.evaluation.descriptors import SCALES
from dino_cli.core.network import attention
from dino_cli.core.network.architecture import LAST_LAYER
from dino_cli.core.network.backbone import Backbone
from dino_cli.core.network.vit import VisionTransformer

__all__ = ["GRID_KINDS", "KINDS", "Extractor", "Kind"]

Kind = Literal["cls", "mean", "cls+mean", "last4", "patch", "keys"]
KINDS: tuple[Kind, ...] = get_args(Kind)
GRID_KINDS = frozenset({"patch", "keys"})  # (h, w, D) for an image, the others (D,)

LAST = 4


class Extractor:
    """Asks a backbone for several kinds of features of the same images.

    - `cls`: class token after the final norm; the pooled features of a network without one.
    - `mean`: mean of the patch tokens after the final norm; `cls+mean`: both side by side.
    - `last4`: class tokens of the last four blocks, each after the final norm (linear evaluation of
      ViT-S, paper, appendix F.2), oldest first.
    - `patch`: patch tokens after the final norm; `keys`: keys of the last block, heads side by
      side, bias included, before any rotary position. Grids (h, w, D) in half precision.

    layer: the block, from 0, or from -1 backwards, that is taken for the last one; those after it
    are not computed. Its tokens go through the final norm, as timm's `forward_intermediates` with
    `norm=True` and the original's `get_intermediate_layers`. compile: through torch.compile. Raises
    `ValueError` for a kind or a block that the network does not have.
    """

    def __init__(
        self,
        backbone: Backbone,
        kinds: Sequence[Kind],
        *,
        layer: int = LAST_LAYER,
        compile: bool = False,
    ) -> None:
        if layer != LAST_LAYER:
            whole, backbone = backbone, backbone.up_to(layer)
            pooled = [kind for kind in kinds if kind in ("cls", "cls+mean")]
            if pooled and whole.prefix_tokens and not backbone.prefix_tokens:
                raise ValueError(
                    f"its class token enters after block {layer % whole.layers}, which has none"
                    f" for features {pooled[0]!r}"
                )
            if compile and backbone is not whole:
                backbone.compile()
        self.backbone, self.kinds = backbone, tuple(kinds)
        net = backbone.net
        blocks = {"last4", "keys"} & set(kinds)
        if blocks and not attention.has_blocks(net):
            raise ValueError(
                f"features {min(blocks)!r} need the blocks of a vision transformer, which it lacks"
            )
        if "last4" in kinds and not backbone.has_attention:
            raise ValueError("features 'last4' need a class token, which it lacks")
        self._tokens: Callable[[Tensor], Any] | None = None
        if blocks:
            depth = len(net.blocks)  # type: ignore[arg-type]
            first = depth - min(depth, LAST) if "last4" in kinds else max(depth - 2, 0)
            forward: Any = net.forward_intermediates
            self._tokens = partial(
                forward,
                indices=list(range(first, depth)),
                return_prefix_tokens=True,
                output_fmt="NLC",
            )
            if compile:
                self._tokens = torch.compile(self._tokens)

    @torch.inference_mode()
    def __call__(self, x: Tensor, *, multi_scale: bool = False) -> dict[str, Tensor]:
        """Normalised images (B, C, H, W) → for each kind float32 (B, D), or float16 (B, h, w, D).

        multi_scale: the mean over three scales, scaled to length 1, as the original's; there are
        no grids then. Raises `ValueError` for kinds that cannot be had.
        """
        if not multi_scale:
            return self._one(self._scaled(x, 1))
        grids = GRID_KINDS & set(self.kinds)
        if grids:
            raise ValueError(f"features {min(grids)!r} have no single grid at several scales")
        total: dict[str, Tensor] = {}
        for scale in SCALES:
            for kind, values in self._one(self._scaled(x, scale)).items():
                total[kind] = total[kind] + values if kind in total else values
        return {kind: F.normalize(values, dim=1) for kind, values in total.items()}

    def _scaled(self, x: Tensor, scale: float) -> Tensor:
        if scale != 1:
            x = F.interpolate(x, scale_factor=scale, mode="bilinear", align_corners=False)
        net = self.backbone.net
        if not attention.has_blocks(net):
            return x
        patch_size = self.backbone.patch_size
        h, w = (side // patch_size * patch_size for side in x.shape[-2:])
        if not h or not w:
            raise ValueError(
                f"an image at scale {scale:.2g} is smaller than one patch of {patch_size}"
            )
        # Beyond the last whole patch nothing counts; ours drop it themselves, and need to know it.
        return x if isinstance(net, VisionTransformer) else x[..., :h, :w]

    def _one(self, x: Tensor) -> dict[str, Tensor]:
        backbone, kinds = self.backbone, self.kinds
        prefix, inputs = backbone.prefix_tokens, []
        if self._tokens is None:
            tokens = backbone.output(x)
        else:
            tokens, inputs = self._tokens(x)
        one_each = isinstance(tokens, Tensor) and tokens.ndim == 3
        missing = [] if one_each else [kind for kind in kinds if kind != "cls"]
        if missing:
            raise ValueError(f"a convnet has no patch tokens for features {missing[0]!r}")
        found: dict[str, Tensor] = {}
        for kind in kinds:
            if kind == "cls":
                found[kind] = backbone.pooled(tokens)
            elif kind == "mean":
                found[kind] = tokens[:, prefix:].float().mean(dim=1)
            elif kind == "cls+mean":
                mean = tokens[:, prefix:].float().mean(dim=1)
                found[kind] = torch.cat([backbone.pooled(tokens), mean], dim=1)
            elif kind == "last4":
                norm: Any = backbone.net.norm
                classes = [norm(_joined(out)[:, :1])[:, 0] for out in inputs[-LAST:]]
                found[kind] = torch.cat(classes, dim=1).float()
            else:
                if kind == "keys":
                    net = backbone.net
                    if len(inputs) > 1:
                        _, keys = attention.row_and_keys(net, _joined(inputs[-2]), {})
                    else:  # what enters the first block is the output of none
                        _, keys = attention.attention_and_keys(net, x)
                    patches = keys[:, :, prefix:].transpose(1, 2).flatten(2)
                else:
                    patches = tokens[:, prefix:]
                h, w = (side // backbone.patch_size for side in x.shape[-2:])
                if h * w != patches.shape[1]:
                    raise ValueError(f"it has no grid of patches for features {kind!r}")
                found[kind] = patches.reshape(len(x), h, w, -1).half()
        return found


def _joined(output: Any) -> Tensor:
    """Tokens of a block (B, P + N, D), which timm gives as patches and prefix where it has one."""
    if isinstance(output, Tensor):
        return output
    patches, prefix = output
    return torch.cat([prefix, patches], dim=1)
