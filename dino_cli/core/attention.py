"""Attention of the CLS token in the last block, and the masks that keep a share of it."""

from typing import Any

import torch
from timm.layers import AttentionRope, apply_rot_embed_cat
from timm.layers.attention import Attention
from timm.models.eva import EvaAttention
from torch import Tensor, nn

__all__ = [
    "block_outputs",
    "last_cls_attention",
    "last_cls_attention_and_keys",
    "supports",
    "threshold_mass",
]


def supports(net: nn.Module) -> bool:
    """Whether `net` has transformer blocks that we can read and a class token."""
    blocks = getattr(net, "blocks", None)
    if not isinstance(blocks, nn.Sequential | nn.ModuleList) or len(blocks) == 0:
        return False
    attn = getattr(blocks[-1], "attn", None)
    return getattr(net, "cls_token", None) is not None and isinstance(
        attn, Attention | AttentionRope | EvaAttention
    )


class _Stop(Exception):
    """Ends a forward pass at a block whose input is all that is needed."""


def last_block_input(net: nn.Module, x: Tensor) -> tuple[Tensor, dict[str, Any]]:
    """Run all but the last block: its input tokens (B, P + N, D) and keyword arguments (rope)."""
    seen: list[tuple[Tensor, dict[str, Any]]] = []

    def stop(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        seen.append((args[0], kwargs))
        raise _Stop

    handle = net.blocks[-1].register_forward_pre_hook(stop, with_kwargs=True)  # type: ignore[index,union-attr]
    try:
        net.forward_features(x)  # type: ignore[operator]
    except _Stop:
        pass
    finally:
        handle.remove()
    return seen[0]


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
    return last_cls_attention_and_keys(net, x)[0]


def last_cls_attention_and_keys(net: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    """CLS attention of the last block (B, H, P + N) and its keys (B, H, P + N, d), both float32.

    The keys include their bias and are not rotated, where the model has rotary positions. This part
    leaves autocast: a row and the keys cost a hundredth of the pass, and rounding logits to
    bfloat16 would move an attention of .01 by as much as four per cent.
    """
    tokens, extra = last_block_input(net, x)
    block: Any = net.blocks[-1]  # type: ignore[index]
    attn = block.attn
    with torch.autocast(x.device.type, enabled=False):
        normed = block.norm1(tokens.to(next(attn.parameters()).dtype))
        query, keys = _rows(attn, normed[:, :1], 0), _rows(attn, normed, 1)
        rotated = keys
        rope = extra.get("rope")
        if rope is not None:  # prefix tokens, CLS among them, are not rotated
            prefix = int(getattr(attn, "num_prefix_tokens", 1))
            half = bool(getattr(attn, "rotate_half", False))
            patches = apply_rot_embed_cat(keys[:, :, prefix:], rope, half=half)
            rotated = torch.cat([keys[:, :, :prefix], patches.type_as(keys)], dim=2)
        logits = (query.float() * attn.scale) @ rotated.float().transpose(-2, -1)
        return logits.softmax(dim=-1)[:, :, 0], keys.float()


def threshold_mass(attention: Tensor, share: float) -> Tensor:
    """Masks of the patches that hold `share` of each head's attention mass.

    attention: (..., h, w), non-negative. Returns bool, same shape: the smallest set of patches with
    that share, by the reference's rule: patches are sorted ascending, and one is kept when the
    cumulative share up to and including it exceeds 1 - share (paper, figure 3). Raises `ValueError`
    unless 0 < share ≤ 1.
    """
    if not 0 < share <= 1:
        raise ValueError(f"the share of attention to keep must be in (0, 1], not {share}")
    flat = attention.flatten(-2)
    values, order = flat.sort(dim=-1)
    values = values / values.sum(dim=-1, keepdim=True)
    kept = values.cumsum(dim=-1) > 1 - share
    mask = torch.zeros_like(kept).scatter(-1, order, kept)
    return mask.reshape(attention.shape)
