"""What a token attends to in a block, and the keys there."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import torch
from timm.layers import AttentionRope, apply_rot_embed_cat
from timm.layers.attention import Attention
from timm.models.eva import EvaAttention
from torch import Tensor, nn

__all__ = [
    "attention_and_keys",
    "block_input",
    "block_outputs",
    "has_blocks",
    "has_class_token",
    "last_cls_attention",
    "row_and_keys",
    "supports",
]


def supports(net: nn.Module) -> bool:
    """Whether `net` has transformer blocks that we can read and a class token."""
    return getattr(net, "cls_token", None) is not None and has_blocks(net)


def has_class_token(net: nn.Module) -> bool:
    """Whether the first token of its output is one; a network may have registers alone."""
    registers = getattr(net, "num_reg_tokens", None)
    if registers is None:
        token = getattr(net, "reg_token", None)
        registers = token.shape[1] if isinstance(token, Tensor) else 0
    return bool(getattr(net, "num_prefix_tokens", 0) > registers)


def has_blocks(net: nn.Module) -> bool:
    """Whether `net` has transformer blocks that we can read; enough to ask a patch."""
    blocks = getattr(net, "blocks", None)
    if not isinstance(blocks, nn.Sequential | nn.ModuleList) or len(blocks) == 0:
        return False
    known = Attention | AttentionRope | EvaAttention
    return isinstance(getattr(blocks[-1], "attn", None), known)


class _Stop(Exception):
    """Ends a forward pass at a block whose input is all that is needed."""


@contextmanager
def block_input(
    net: nn.Module, layer: int = -1, *, stop: bool = False
) -> Iterator[list[tuple[Tensor, dict[str, Any]]]]:
    """Forwards inside leave what entered a block: tokens (B, P + N, D), keyword arguments (rope).

    stop: a forward ends there and leaves the block of the `with` statement.
    """
    seen: list[tuple[Tensor, dict[str, Any]]] = []

    def note(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        seen.append((args[0], kwargs))
        if stop:
            raise _Stop

    handle = net.blocks[layer].register_forward_pre_hook(note, with_kwargs=True)  # type: ignore[index,union-attr]
    try:
        with suppress(_Stop):
            yield seen
    finally:
        handle.remove()


def block_outputs(net: nn.Module, x: Tensor, n: int) -> list[Tensor]:
    """Outputs of the last n blocks (all, when there are fewer), oldest first: (B, P + N, D)."""
    outputs: list[Tensor] = []
    blocks = list(net.blocks)[-n:]  # type: ignore[arg-type]
    handles = [b.register_forward_hook(lambda _m, _a, out: outputs.append(out)) for b in blocks]
    try:
        net.forward_features(x)  # type: ignore[operator]
    finally:
        for handle in handles:
            handle.remove()
    return outputs


def _rows(attn: Any, x: Tensor, part: int) -> Tensor:
    """Queries (part 0) or keys (part 1) of tokens (B, T, D) → (B, H, T, d), head norm applied."""
    if getattr(attn, "qkv", None) is not None:
        width = attn.qkv.weight.shape[0] // 3
        at = slice(part * width, (part + 1) * width)
        if attn.qkv.bias is not None:
            bias = attn.qkv.bias[at]
        elif getattr(attn, "q_bias", None) is not None:
            bias = (attn.q_bias, attn.k_bias)[part]
        else:
            bias = None
        rows = nn.functional.linear(x, attn.qkv.weight[at], bias)
    else:
        rows = (attn.q_proj, attn.k_proj)[part](x)
    rows = rows.reshape(*rows.shape[:2], attn.num_heads, -1).transpose(1, 2)
    normed: Tensor = (attn.q_norm, attn.k_norm)[part](rows)
    return normed


def last_cls_attention(net: nn.Module, x: Tensor) -> Tensor:
    """Softmax attention of CLS to all tokens in the last block, float32 (B, H, P + N).

    Only the CLS query is formed, so the cost beyond the earlier blocks is linear in the tokens.
    """
    return attention_and_keys(net, x)[0]


def attention_and_keys(
    net: nn.Module, x: Tensor, *, layer: int = -1, asking: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """What one token attends to in one block (B, H, P + N), and the keys there (B, H, P + N, d).

    layer: number of the block from 0, or from -1 backwards. asking: (B,) int64, the number of the
    asking patch of each image in reading order; None: the class token asks. Nothing after that
    block's norm is computed, and only the one row of the attention: linear in the tokens.
    """
    with block_input(net, layer, stop=True) as seen:
        net.forward_features(x)  # type: ignore[operator]
    return row_and_keys(net, *seen[0], layer=layer, asking=asking)


def row_and_keys(
    net: nn.Module,
    tokens: Tensor,
    extra: dict[str, Any],
    *,
    layer: int = -1,
    asking: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """As `attention_and_keys`, of what entered the block (see `block_input`); float32.

    The keys include their bias and are not rotated, where the model has rotary positions. This part
    leaves autocast: a row and the keys cost a hundredth of the pass, and rounding logits to
    bfloat16 would move an attention of .01 by as much as four per cent.
    """
    block: Any = net.blocks[layer]  # type: ignore[index]
    attn = block.attn
    with torch.autocast(tokens.device.type, enabled=False):
        normed = block.norm1(tokens.to(next(attn.parameters()).dtype))
        keys = _rows(attn, normed, 1)
        rope = extra.get("rope")
        prefix = int(getattr(net, "num_prefix_tokens", 1))
        if asking is None:  # prefix tokens, CLS among them, are not rotated
            query = _rows(attn, normed[:, :1], 0)
        else:
            at = (asking + prefix).view(-1, 1, 1, 1).expand(-1, keys.shape[1], 1, keys.shape[3])
            query = _rotated(attn, _rows(attn, normed, 0), rope, prefix).gather(2, at)
        logits = (query.float() * attn.scale) @ _rotated(attn, keys, rope, prefix).float().mT
        return logits.softmax(dim=-1)[:, :, 0], keys.float()


def _rotated(attn: Any, rows: Tensor, rope: Tensor | None, prefix: int) -> Tensor:
    """Rotary positions on queries or keys (B, H, P + N, d), where the model has them."""
    if rope is None:
        return rows
    half = bool(getattr(attn, "rotate_half", False))
    patches = apply_rot_embed_cat(rows[:, :, prefix:], rope, half=half)
    return torch.cat([rows[:, :, :prefix], patches.type_as(rows)], dim=2)
