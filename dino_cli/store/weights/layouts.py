"""The names that published weights go by. Every layout is brought to timm's, the reference's.

    reference, timm, facebookresearch/dinov2   names as they are; DINOv2's registers are folded
    facebookresearch/dinov3                    see `store.weights.dinov3`
    torchvision, timm ResNet                   names as they are
    Hugging Face ViT, Dinov2, Dinov2WithRegisters, DINOv3ViT, ResNet
                                               files, transformers 5 in memory, classifier prefixes
    trainings of DINOv2, lightly, solo-learn   see `store.weights.trainers`

Pure functions over dicts of tensors; nothing here opens a file or knows an architecture.
"""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from dino_cli.errors import TaskError
from dino_cli.store.weights.dinov3 import PERIODS, dinov3_names
from dino_cli.store.weights.lookalikes import looks_like
from dino_cli.store.weights.trainers import networks_beside, one_of_pair, without

__all__ = [
    "HEADS",
    "NamedTensors",
    "bare_names",
    "is_finite",
    "network_of",
    "networks_in",
    "own_backbone",
    "own_head",
    "to_timm_names",
]

Tensors = dict[str, Tensor]
Rename = tuple[str, str]

WRAPPERS = ("state_dict_ema", "model_ema", "state_dict", "model", "model_state_dict")
OWN_BACKBONE, OWN_HEAD = "backbone.", "head."  # parts of the reference's and our checkpoints
# Of classifier models and multi-part checkpoints around the network that is wanted.
OUTER_PREFIXES = (
    "model.backbone.",
    "backbone.vit.",
    "backbone.",
    "vit.",
    "dinov2_with_registers.",
    "dinov2.",
    "dinov3_vit.",
    "resnet.",
    "model.",
    "encoder.",
)
MOST_WRAPPED = 8  # dicts within dicts
# Types with several numbers in a byte, which torch cannot take out.
PACKED = frozenset({getattr(torch, "float4_e2m1fn_x2", None)})
FIRST_LAYERS = ("patch_embed.", "embeddings.", "embedder.", "conv1.")
ATTENTION = ("attn.q", "attn.k", "attn.v")
GATED = (("mlp.gate", "mlp.up"), "mlp.fc1")  # parts, whole
HEADS = ("head.", "head_dist.", "dino_head.", "ibot_head.", "classifier.", "pooler.", "mask_token")

# Hugging Face names and their replacements, applied in this order.
VIT_NAMES: tuple[Rename, ...] = (
    (r"^embeddings\.patch_embeddings\.(?:projection\.)?", "patch_embed.proj."),
    (r"^embeddings\.position_embeddings$", "pos_embed"),
    (r"^embeddings\.(cls_token|mask_token|register_tokens)$", r"\1"),
    (r"^(?:encoder\.|model\.)?layers?\.(\d+)\.", r"blocks.\1."),
    (r"\.layernorm_before\.", ".norm1."),
    (r"\.layernorm_after\.", ".norm2."),
    (r"\.attention\.(?:attention\.)?(?:query|q_proj)\.", ".attn.q."),
    (r"\.attention\.(?:attention\.)?(?:key|k_proj)\.", ".attn.k."),
    (r"\.attention\.(?:attention\.)?(?:value|v_proj)\.", ".attn.v."),
    (r"\.attention\.(?:output\.dense|o_proj)\.", ".attn.proj."),
    (r"\.intermediate\.dense\.", ".mlp.fc1."),
    (r"\.output\.dense\.", ".mlp.fc2."),
    (r"\.mlp\.weights_in\.", ".mlp.fc1."),
    (r"\.mlp\.weights_out\.", ".mlp.fc2."),
    (r"\.mlp\.gate_proj\.", ".mlp.gate."),
    (r"\.mlp\.up_proj\.", ".mlp.up."),
    (r"\.mlp\.down_proj\.", ".mlp.fc2."),
    (r"\.layer_scale([12])\.lambda1$", r".ls\1.gamma"),
    (r"^layernorm\.", "norm."),
)
DINOV3_NAMES: tuple[Rename, ...] = (
    (r"^embeddings\.register_tokens$", "reg_token"),
    (r"\.layer_scale([12])\.lambda1$", r".gamma_\1"),
    *VIT_NAMES,
)
# facebookresearch/dinov2's giant has SwiGLU blocks, whose names differ from timm's.
DINOV2_NAMES: tuple[Rename, ...] = ((r"\.mlp\.w12\.", ".mlp.fc1."), (r"\.mlp\.w3\.", ".mlp.fc2."))
CHUNK = re.compile(r"^blocks\.\d+\.(\d+)\.")
RESNET_NAMES: tuple[Rename, ...] = (
    (r"^embedder\.embedder\.convolution\.", "conv1."),
    (r"^embedder\.embedder\.normalization\.", "bn1."),
    (r"\.shortcut\.convolution\.", ".downsample.0."),
    (r"\.shortcut\.normalization\.", ".downsample.1."),
)


@dataclass(frozen=True)
class NamedTensors:
    """Tensors under timm's names.

    kind: `vit` (timm's VisionTransformer), `dinov3` (timm's Eva), `resnet`.
    huggingface: they came under Hugging Face names. supervised: a classifier or pooler was with
    them, so they are neither DINO v1's nor DINOv2's. periods: of DINOv3's rotary positions,
    (head width / 4,), where the file has them.
    """

    tensors: Tensors
    kind: Literal["vit", "dinov3", "resnet"]
    huggingface: bool = False
    supervised: bool = False
    periods: Tensor | None = None


def to_timm_names(tensors: Mapping[str, Tensor]) -> NamedTensors:
    """Recognise the layout and rename. Raises `TaskError` when no layout is recognised.

    Missing and unexpected tensors pass; whoever fills the network finds them.
    """
    bare = bare_names(tensors)
    signs = ("head.weight", "classifier.weight", "pooler.dense.weight")
    supervised = any(name in bare and bare[name].ndim == 2 for name in signs)
    bare = {name: tensor for name, tensor in bare.items() if not name.startswith(HEADS)}
    bare = _without_chunks(bare)
    if "embeddings.patch_embeddings.weight" in bare:
        return NamedTensors(_dinov3(bare), "dinov3", True)
    if "embedder.embedder.convolution.weight" in bare:
        return NamedTensors(_resnet(bare), "resnet", True)
    if "embeddings.patch_embeddings.projection.weight" in bare:
        renamed = _fused(_fused(_renamed(bare, VIT_NAMES)), *GATED)
        return NamedTensors(_fold_registers(renamed), "vit", True, supervised)
    if PERIODS in bare:
        return NamedTensors(dinov3_names(bare), "dinov3", periods=bare[PERIODS])
    if "patch_embed.proj.weight" in bare or "patch_embed.proj.0.weight" in bare:
        return NamedTensors(_fold_registers(_renamed(bare, DINOV2_NAMES)), "vit", False, supervised)
    if "conv1.weight" in bare and "layer1.0.conv1.weight" in bare:
        rest = {name: t for name, t in bare.items() if not name.startswith("fc.")}
        return NamedTensors(rest, "resnet")
    shown, like = ", ".join(list(tensors)[:3]), looks_like(bare)
    raise TaskError(
        f"its tensors ({shown}, …) go by the names of no known layout"
        + (f"; they look like {like}" if like else ""),
        "give weights of a DINO backbone, or name the timm model with --arch",
    )


def network_of(content: Mapping[str, Any], checkpoint_key: str) -> Tensors:
    """The named tensors in a file: the whole of it, or the `checkpoint_key` of a full checkpoint,
    nested or flat.

    Raises `TaskError` when there are none.
    """
    for _ in range(MOST_WRAPPED):  # a file may say that it holds itself
        networks = [key for key in ("student", "teacher") if isinstance(content.get(key), Mapping)]
        if networks and checkpoint_key not in networks:
            raise TaskError(f"it holds no {checkpoint_key}", f"use --checkpoint-key {networks[0]}")
        keys = (key for key in (checkpoint_key, *WRAPPERS) if isinstance(content.get(key), Mapping))
        key = next(keys, None)
        if key is None:
            break
        content = content[key]
    tensors = {str(name): t for name, t in content.items() if isinstance(t, Tensor)}
    if not tensors:
        some = ", ".join(repr(name) for name in list(content)[:5]) or "nothing"
        raise TaskError(f"it holds no tensors by name, only {some}", "give a file of weights")
    for name, tensor in tensors.items():
        if not _is_plain(tensor):
            raise TaskError(f"the tensor {name!r} has no plain values", "save it as a plain tensor")
    return one_of_pair(tensors, checkpoint_key)


def networks_in(content: Mapping[str, Any]) -> list[str]:
    """Which of student and teacher are in a file; neither is told apart in one of weights alone."""
    for _ in range(MOST_WRAPPED):
        found = [key for key in ("student", "teacher") if isinstance(content.get(key), Mapping)]
        inner = next((key for key in WRAPPERS if isinstance(content.get(key), Mapping)), None)
        if found or inner is None:
            return found or networks_beside(map(str, content))
        content = content[inner]
    return []


def _is_plain(tensor: Tensor) -> bool:
    """Whether it is a block of numbers: not sparse, quantized, nested, packed or without values."""
    odd = tensor.is_meta or tensor.is_quantized or tensor.is_nested
    return not odd and tensor.layout == torch.strided and tensor.dtype not in PACKED


def is_finite(tensor: Tensor) -> bool:
    """Whether all values are; true of whole numbers."""
    if not tensor.is_floating_point():
        return True
    # A sum is several times cheaper; only one that overflowed needs the second look.
    total = tensor.sum(dtype=torch.float32)
    return bool(torch.isfinite(total)) or bool(torch.isfinite(tensor).all())


def own_backbone(tensors: Mapping[str, Tensor]) -> Tensors:
    """The tensors of a backbone of `dino train`, by itself or in a checkpoint beside its head.

    By where they lie, not by name: many a network of timm has a `head.norm` of its own.
    """
    bare = {without(name): tensor for name, tensor in tensors.items()}
    if not any(name.startswith(OWN_BACKBONE) for name in bare):
        return bare
    return {
        without(name.removeprefix(OWN_BACKBONE)): tensor
        for name, tensor in bare.items()
        if not name.startswith(OWN_HEAD)
    }


def own_head(tensors: Mapping[str, Tensor]) -> Tensors:
    """The tensors of the projection head in a network of a checkpoint, by their names in it."""
    bare = {without(name): tensor for name, tensor in tensors.items()}
    return {n.removeprefix(OWN_HEAD): t for n, t in bare.items() if n.startswith(OWN_HEAD)}


def bare_names(tensors: Mapping[str, Tensor], wanted: Collection[str] = ()) -> Tensors:
    """Names without the prefixes of wrappers. What lies beside a prefixed backbone is kept.

    wanted: the names in the network, if they are known, which then tell the prefix; else the usual
    ones of first layers do.
    """
    bare = {without(name): tensor for name, tensor in tensors.items()}
    counts = {p: sum(p + name in bare for name in wanted) for p in ("", *OUTER_PREFIXES)}
    likeliest = max(counts, key=lambda prefix: counts[prefix])
    if not counts[likeliest]:
        firsts = [(p, tuple(p + first for first in FIRST_LAYERS)) for p in OUTER_PREFIXES]
        found = (p for p, first in firsts if any(name.startswith(first) for name in bare))
        likeliest = next(found, "")
    return {without(name.removeprefix(likeliest)): tensor for name, tensor in bare.items()}


def _without_chunks(tensors: Tensors) -> Tensors:
    """blocks.0.3.attn… → blocks.3.attn…, of facebookresearch/dinov2's training with `block_chunks`,
    which counts the blocks through."""
    named = {CHUNK.sub(r"blocks.\1.", name): tensor for name, tensor in tensors.items()}
    return named if len(named) == len(tensors) else tensors


def _renamed(tensors: Tensors, table: tuple[Rename, ...]) -> Tensors:
    named = {}
    for name, tensor in tensors.items():
        for pattern, replacement in table:
            name = re.sub(pattern, replacement, name)
        if name != "mask_token":
            named[name] = tensor
    return named


def _fused(
    tensors: Tensors, parts: tuple[str, ...] = ATTENTION, whole: str = "attn.qkv"
) -> Tensors:
    """timm's one matrix of query, key and value (or another's parts), along the first dimension."""
    fused = dict(tensors)
    for name in tensors:
        found = re.fullmatch(rf"(blocks\.\d+\.){re.escape(parts[0])}\.(weight|bias)", name)
        names = [f"{found[1]}{part}.{found[2]}" for part in parts] if found else []
        pieces = [fused[part] for part in names if part in fused]
        if found and len(pieces) == len(parts) and _join(pieces):
            fused[f"{found[1]}{whole}.{found[2]}"] = torch.cat([fused.pop(n) for n in names])
    return fused


def _join(pieces: list[Tensor]) -> bool:
    """Whether they differ in nothing but the number of rows; else strictness names them."""
    return pieces[0].ndim > 0 and len({(t.ndim, t.shape[1:]) for t in pieces}) == 1


def _dinov3(tensors: Tensors) -> Tensors:
    """There keys have no bias, so timm keeps those of queries and values apart."""
    named = {}
    renamed = _fused(_renamed(tensors, DINOV3_NAMES))
    gated = any(".mlp.gate." in name for name in renamed)
    for name, tensor in renamed.items():
        name = re.sub(r"\.attn\.([qv])\.bias$", r".attn.\1_bias", name)
        name = name.replace(".mlp.gate.", ".mlp.fc1_g.")
        name = name.replace(".mlp.up.", ".mlp.fc1_x." if gated else ".mlp.fc1.")
        if name != "reg_token" or tensor.numel():  # an empty one for no registers
            named[name] = tensor
    return named


def _resnet(tensors: Tensors) -> Tensors:
    """Stages and layers count from 0 there, from 1 in torchvision."""
    named = {}
    for name, tensor in _renamed(tensors, RESNET_NAMES).items():
        name = re.sub(
            r"^encoder\.stages\.(\d+)\.layers\.", lambda m: f"layer{int(m[1]) + 1}.", name
        )
        name = re.sub(r"\.layer\.(\d+)\.convolution\.", lambda m: f".conv{int(m[1]) + 1}.", name)
        name = re.sub(r"\.layer\.(\d+)\.normalization\.", lambda m: f".bn{int(m[1]) + 1}.", name)
        named[name] = tensor
    return named


def _fold_registers(tensors: Tensors) -> Tensors:
    """facebookresearch/dinov2 adds a position to CLS; timm's register models keep it inside CLS."""
    if "register_tokens" not in tensors:
        return tensors
    rest = {name: t for name, t in tensors.items() if name != "register_tokens"}
    rest["reg_token"] = tensors["register_tokens"]
    if "cls_token" in rest and "pos_embed" in rest and rest["pos_embed"].ndim == 3:
        first, others = rest["pos_embed"][:, :1], rest["pos_embed"][:, 1:]
        if rest["cls_token"].shape == first.shape:
            rest["cls_token"] = rest["cls_token"].float() + first.float()
            rest["pos_embed"] = others
    return rest
