"""One way to ask any timm network for features, keys and CLS attention.

`Architecture` says what to build, `build` makes it, `Backbone` asks it.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import timm
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from dino_cli.core.network import attention
from dino_cli.core.network.architecture import Architecture, VitArchitecture
from dino_cli.core.network.blocks import ending_with, ordered_blocks
from dino_cli.core.network.vit import build_vit

INITIALISING = {  # of `torch.nn.init`, and of what timm makes its own from
    *("uniform_", "normal_", "trunc_normal_", "constant_", "ones_", "zeros_"),
    *("kaiming_uniform_", "kaiming_normal_", "xavier_uniform_", "xavier_normal_"),
    *("zero_", "fill_", "erfinv_", "add_", "mul_", "div_", "clamp_"),
}

__all__ = ["Backbone", "build", "build_empty", "feature_width"]


def build(architecture: Architecture, *, drop_path: float = 0.0) -> nn.Module:
    """A freshly initialised network whose `forward` gives one feature per image, (B, D).

    Raises `ValueError` for a convolutional stem that the patch size does not allow, else what timm
    raises for a model or arguments that it does not know.
    """
    if isinstance(architecture, VitArchitecture):
        return build_vit(architecture, drop_path=drop_path)
    arguments = dict(architecture.arguments)
    if drop_path:
        arguments["drop_path_rate"] = drop_path
    net: nn.Module = timm.create_model(
        architecture.name, num_classes=0, in_chans=architecture.in_chans, **arguments
    )
    return net


def build_empty(architecture: Architecture, *, drop_path: float = 0.0) -> nn.Module:
    """The same without values, on the meta device: for shapes and counts, at almost no cost.

    Raises what `build` raises. Some of timm's models compute with values while they are built;
    these are built in full and then emptied.
    """
    try:
        with torch.device("meta"), _Uninitialised():
            return build(architecture, drop_path=drop_path)
    except Exception:  # the full build tells it, if it is the architecture's fault
        return build(architecture, drop_path=drop_path).to("meta")


class _Uninitialised(TorchFunctionMode):
    """Initialising leaves meta tensors alone: they have no values, but it takes its time."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Collection[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        named = kwargs or {}
        if getattr(func, "__name__", "") in INITIALISING:
            tensor = args[0] if args else named.get("tensor")
            if isinstance(tensor, Tensor) and tensor.is_meta:
                return tensor
        return func(*args, **named)


def feature_width(net: nn.Module) -> int:
    """Width D of the features (B, D) that a network of `build` gives.

    Not of its last map or tokens, timm's `num_features`: after these, MobileNetV3, VGG, HGNetV2 and
    others have a layer more before the classifier.
    """
    return int(getattr(net, "head_hidden_size", None) or net.num_features)  # type: ignore[arg-type]


class Backbone:
    """A network in eval mode, asked for features, keys and CLS attention.

    Wraps any timm model. Attention and keys need transformer blocks and a class token
    (`has_attention`); features work for convnets too.
    """

    def __init__(self, net: nn.Module) -> None:
        self.net = net.eval()
        # What forwards run through: `compile` replaces it, the blocks stay reachable in `net`.
        self._forward_features: Callable[[Tensor], Tensor] = net.forward_features  # type: ignore[assignment]

    def compile(self) -> None:
        """Compile the feature forward (first call takes tens of seconds)."""
        self._forward_features = torch.compile(self._forward_features)

    def compile_blocks(self, before: int = -1) -> None:
        """Compile the blocks before one, the last, which attention and keys are read from."""
        for block in list(self.net.blocks)[:before]:  # type: ignore[arg-type]
            block.compile()

    @property
    def patch_size(self) -> int:
        """Side of a patch in pixels; for convnets 32, the whole stride."""
        embed = getattr(self.net, "patch_embed", None)
        size = getattr(embed, "patch_size", 32)
        return int(size[0]) if isinstance(size, tuple | list) else int(size)

    @property
    def prefix_tokens(self) -> int:
        """Tokens in front of the patches: CLS and registers."""
        return int(getattr(self.net, "num_prefix_tokens", 0))

    @property
    def dim(self) -> int:
        """Width D of a CLS feature, or of a pooled one."""
        return feature_width(self.net)

    @property
    def heads(self) -> int:
        """Number of attention heads H in the last block; 0 without attention."""
        return int(self.net.blocks[-1].attn.num_heads) if self.has_blocks else 0  # type: ignore[index,union-attr]

    @property
    def depth(self) -> int:
        """Number of transformer blocks; 0 where there are none that we can read."""
        return len(self.net.blocks) if self.has_blocks else 0  # type: ignore[arg-type]

    @property
    def layers(self) -> int:
        """Number of blocks that `up_to` chooses among, those whose attention we cannot read too."""
        return len(ordered_blocks(self.net))

    @property
    def has_blocks(self) -> bool:
        """Whether there are transformer blocks of a known kind, so that patches attend."""
        return attention.has_blocks(self.net)

    @property
    def has_attention(self) -> bool:
        """Whether CLS attention exists: transformer blocks of a known kind and a class token."""
        return attention.supports(self.net)

    def up_to(self, layer: int) -> "Backbone":
        """The network that ends with one block, whose output goes through the same final norm.

        layer: number of the block from 0, or from -1 backwards. The tensors are shared; a shorter
        one is not compiled, though this one was. Raises `ValueError` for a block that there is not.
        """
        layers = self.layers
        if not -layers <= layer < layers:
            raise ValueError(f"layer {layer} of {layers} blocks")
        number = layer % layers
        return self if number == layers - 1 else Backbone(ending_with(self.net, number))

    @torch.inference_mode()
    def output(self, x: Tensor) -> Tensor:
        """What the network makes of normalised images (B, C, H, W) before it pools.

        Tokens after the final norm, prefix first (B, P + N, D); of a convnet a map (B, D, h, w);
        of a few networks of timm, as CrossViT, several.
        """
        return self._forward_features(x)

    @torch.inference_mode()
    def pooled(self, output: Tensor) -> Tensor:
        """Of such an output the CLS token, or what a network without one pools: float32 (B, D)."""
        if isinstance(output, Tensor) and output.ndim == 3 and attention.has_class_token(self.net):
            return output[:, 0].float()
        pooled: Tensor = self.net.forward_head(output, pre_logits=True)  # type: ignore[operator]
        return pooled.float()

    def features(self, x: Tensor) -> Tensor:
        """The pooled features of normalised images (B, C, H, W): float32 (B, D)."""
        return self.pooled(self.output(x))

    @torch.inference_mode()
    def tokens(self, x: Tensor) -> Tensor:
        """Tokens after the final norm, CLS and registers first: float32 (B, P + N, D).

        Raises `ValueError` for a network without patch tokens.
        """
        tokens = self.output(x)
        if not isinstance(tokens, Tensor) or tokens.ndim != 3:
            raise ValueError("a convnet has no patch tokens")
        return tokens.float()

    def patch_tokens(self, x: Tensor) -> Tensor:
        """As `tokens`, of the patches only (B, N, D)."""
        return self.tokens(x)[:, self.prefix_tokens :]

    @torch.inference_mode()
    def last_tokens(self, x: Tensor, n: int = 4) -> list[Tensor]:
        """Tokens of the last n blocks, oldest first, each after the final norm: (B, P + N, D)."""
        outputs = attention.block_outputs(self.net, x, n)
        return [self.net.norm(tokens) for tokens in outputs]  # type: ignore[operator]

    @torch.inference_mode()
    def cls_attention(self, x: Tensor) -> Tensor:
        """Last-block attention of CLS to the patches, float32 (B, H, h, w).

        Softmax over all tokens, then the prefix columns are dropped, so a head's sum is below 1.
        Costs one row of the last block's attention beyond the earlier blocks.
        """
        return self._of_patches(attention.last_cls_attention(self.net, x), x)

    @torch.inference_mode()
    def cls_attention_and_keys(
        self, x: Tensor, *, layer: int = -1, asking: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """As `cls_attention`, and from the same pass the block's keys, float32 (B, N, D).

        The heads' keys lie side by side, bias included; those of CLS and registers are dropped.
        layer: another block than the last one. asking: (B,) int64, numbers in reading order of the
        patches that ask instead of CLS.
        """
        rows, keys = attention.attention_and_keys(self.net, x, layer=layer, asking=asking)
        return self._of_patches(rows, x), self._keys_of_patches(keys)

    @torch.inference_mode()
    def attention_keys_and_tokens(
        self, x: Tensor, *, layer: int = -1, asking: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """As `cls_attention_and_keys`, and the patch tokens after the final norm (B, N, D).

        One pass for all three, float32.
        """
        with attention.block_input(self.net, layer) as seen:
            tokens = self.net.forward_features(x)  # type: ignore[operator]
        rows, keys = attention.row_and_keys(self.net, *seen[0], layer=layer, asking=asking)
        patches = tokens[:, self.prefix_tokens :].float()
        return self._of_patches(rows, x), self._keys_of_patches(keys), patches

    def _of_patches(self, rows: Tensor, x: Tensor) -> Tensor:
        h, w = x.shape[-2] // self.patch_size, x.shape[-1] // self.patch_size
        return rows[:, :, self.prefix_tokens :].reshape(*rows.shape[:2], h, w)

    def _keys_of_patches(self, keys: Tensor) -> Tensor:
        return keys[:, :, self.prefix_tokens :].transpose(1, 2).flatten(2)
