"""Our names (timm's) to those of other layouts: `store.weights.layouts` the other way round.

Pure functions over dicts of tensors. Raise `TaskError` where a layout has no place for a network.
"""

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from dino_cli.core.network.architecture import Architecture, TimmArchitecture, VitArchitecture
from dino_cli.errors import TaskError

__all__ = ["huggingface_family", "huggingface_names", "reference_names"]

Tensors = dict[str, Tensor]
Rename = tuple[str, str]

BLOCK = r"^blocks\.(\d+)\."
VIT_NAMES: tuple[Rename, ...] = (
    (r"^patch_embed\.proj\.", "embeddings.patch_embeddings.projection."),
    (r"^pos_embed$", "embeddings.position_embeddings"),
    (r"^cls_token$", "embeddings.cls_token"),
    (r"^norm\.", "layernorm."),
    (BLOCK, r"encoder.layer.\1."),
    (r"\.attn\.(query|key|value)\.", r".attention.attention.\1."),
    (r"\.attn\.proj\.", ".attention.output.dense."),
)
# By family, beside what they have in common.
MLP_NAMES: dict[str, tuple[Rename, ...]] = {
    "vit": (
        (r"\.norm1\.", ".layernorm_before."),
        (r"\.norm2\.", ".layernorm_after."),
        (r"\.mlp\.fc1\.", ".intermediate.dense."),
        (r"\.mlp\.fc2\.", ".output.dense."),
    ),
    "dinov2": ((r"\.ls([12])\.gamma$", r".layer_scale\1.lambda1"),),
}
SWIGLU_NAMES: tuple[Rename, ...] = (
    (r"\.mlp\.fc1\.", ".mlp.weights_in."),
    (r"\.mlp\.fc2\.", ".mlp.weights_out."),
)
DINOV3_NAMES: tuple[Rename, ...] = (
    (r"^patch_embed\.proj\.", "embeddings.patch_embeddings."),
    (r"^cls_token$", "embeddings.cls_token"),
    (r"^reg_token$", "embeddings.register_tokens"),
    (BLOCK, r"layer.\1."),
    (r"\.gamma_([12])$", r".layer_scale\1.lambda1"),
    (r"\.attn\.(q|k|v)(?:uery|ey|alue)\.", r".attention.\1_proj."),
    (r"\.attn\.([qv])_bias$", r".attention.\1_proj.bias"),
    (r"\.attn\.proj\.", ".attention.o_proj."),
    (r"\.mlp\.fc1_g\.", ".mlp.gate_proj."),
    (r"\.mlp\.(?:fc1_x|fc1)\.", ".mlp.up_proj."),
    (r"\.mlp\.fc2\.", ".mlp.down_proj."),
)
RESNET_NAME = re.compile(
    r"(?:conv1|bn1)\.\w+|layer[1-4]\.\d+\.(?:(?:conv|bn)[123]|downsample\.[01])\.\w+"
)


def huggingface_family(architecture: Architecture, tensors: Mapping[str, Tensor]) -> str:
    """`vit`, `dinov2`, `dinov2_with_registers`, `dinov3_vit` or `resnet`: the `model_type`."""
    a = architecture
    if isinstance(a, VitArchitecture):
        if a.conv_stem:
            raise _no_place("Hugging Face's ViT", "a convolutional stem")
        if a.registers:
            return "dinov2_with_registers"
        return "dinov2" if a.layer_scale or a.swiglu else "vit"
    if "dinov3" in a.name and "blocks.0.gamma_1" in tensors and "pos_embed" not in tensors:
        return "dinov3_vit"
    if all(RESNET_NAME.fullmatch(name) for name in tensors) and "layer1.0.conv3.weight" in tensors:
        return "resnet"
    raise TaskError(
        f"transformers has no class for the network {a.name!r} that its exporter knows",
        "export timm's .safetensors or .onnx",
    )


def huggingface_names(architecture: Architecture, tensors: Mapping[str, Tensor]) -> Tensors:
    """As transformers' `save_pretrained` names them, ready for `AutoModel.from_pretrained`."""
    family = huggingface_family(architecture, tensors)
    if family == "resnet":
        return {_resnet_name(name): tensor for name, tensor in tensors.items()}
    split = _split(tensors)
    if family == "dinov3_vit":
        named = _renamed(split, DINOV3_NAMES)
        width = named["embeddings.cls_token"].shape[-1]
        named.setdefault("embeddings.register_tokens", torch.zeros(1, 0, width))
        return {**named, "embeddings.mask_token": torch.zeros(1, 1, width)}
    a = architecture
    assert isinstance(a, VitArchitecture)  # of all other families
    tables = VIT_NAMES + MLP_NAMES["vit" if family == "vit" else "dinov2"]
    named = _renamed(_with_class_position(split, a), tables + (SWIGLU_NAMES if a.swiglu else ()))
    if family != "vit":
        named["embeddings.mask_token"] = torch.zeros(1, a.width)
        for block in range(0 if a.layer_scale else a.depth):
            for scale in ("layer_scale1", "layer_scale2"):
                named[f"encoder.layer.{block}.{scale}.lambda1"] = torch.ones(a.width)
    return named


def reference_names(architecture: Architecture, tensors: Mapping[str, Tensor]) -> Tensors:
    """As facebookresearch/dino's `vision_transformer`, torchvision's ResNet-50 or its XCiT."""
    a = architecture
    if isinstance(a, TimmArchitecture):
        if all(RESNET_NAME.fullmatch(name) for name in tensors):
            return dict(tensors)
        if a.name.startswith("xcit_"):
            return _xcit(tensors)
        raise _no_place("the reference", f"the network {a.name!r}")
    extras = {
        "layer scales": a.layer_scale,
        "registers": a.registers > 0,
        "a convolutional stem": a.conv_stem,
        "SwiGLU blocks": a.swiglu,
        "a position grid that is not square": a.grid[0] != a.grid[1],
    }
    for what, there in extras.items():
        if there:
            raise _no_place("the reference's vision transformer", what)
    return _with_class_position(tensors, a)


def _no_place(layout: str, what: str) -> TaskError:
    return TaskError(f"{layout} has no place for {what}", "export timm's .safetensors or .onnx")


def _renamed(tensors: Mapping[str, Tensor], table: tuple[Rename, ...]) -> Tensors:
    named = {}
    for name, tensor in tensors.items():
        for pattern, replacement in table:
            name = re.sub(pattern, replacement, name)
        named[name] = tensor
    return named


def _split(tensors: Mapping[str, Tensor]) -> Tensors:
    """timm's one matrix as query, key and value."""
    split: Tensors = {}
    for name, tensor in tensors.items():
        if ".attn.qkv." in name:
            for part, chunk in zip(("query", "key", "value"), tensor.chunk(3), strict=True):
                split[name.replace(".qkv.", f".{part}.")] = chunk
        else:
            split[name] = tensor
    return split


def _with_class_position(tensors: Mapping[str, Tensor], a: VitArchitecture) -> Tensors:
    """Positions with exactly one entry for CLS and none for registers, as the layouts want them.

    Where CLS has no position of its own it gets zeros; positions of registers go into these.
    """
    named = dict(tensors)
    positions = named["pos_embed"]
    if "reg_token" in named:
        named["embeddings.register_tokens"] = named.pop("reg_token")
    prefix = positions.shape[1] - a.grid[0] * a.grid[1]
    if prefix == 0:
        named["pos_embed"] = torch.cat([torch.zeros_like(positions[:, :1]), positions], dim=1)
    elif prefix > 1:
        own, rest = positions[:, 1:prefix], positions[:, prefix:]
        named["embeddings.register_tokens"] = named["embeddings.register_tokens"] + own
        named["pos_embed"] = torch.cat([positions[:, :1], rest], dim=1)
    return named


def _resnet_name(name: str) -> str:
    """Stages and layers count from 1 in torchvision, from 0 in transformers."""
    name = re.sub(r"^conv1\.", "embedder.embedder.convolution.", name)
    name = re.sub(r"^bn1\.", "embedder.embedder.normalization.", name)
    name = re.sub(
        r"^layer(\d)\.(\d+)\.", lambda m: f"encoder.stages.{int(m[1]) - 1}.layers.{m[2]}.", name
    )
    name = re.sub(r"\.conv(\d)\.", lambda m: f".layer.{int(m[1]) - 1}.convolution.", name)
    name = re.sub(r"\.bn(\d)\.", lambda m: f".layer.{int(m[1]) - 1}.normalization.", name)
    name = name.replace(".downsample.0.", ".shortcut.convolution.")
    return name.replace(".downsample.1.", ".shortcut.normalization.")


def _xcit(tensors: Mapping[str, Tensor]) -> Tensors:
    """facebookresearch/xcit spells its position encoder in another way and keeps one qkv."""
    named: Tensors = {}
    for name, tensor in tensors.items():
        found = re.fullmatch(r"(cls_attn_blocks\.\d+\.attn\.)([qkv])\.(weight|bias)", name)
        if found is None:
            named[re.sub(r"^pos_embed\.", "pos_embeder.", name)] = tensor
        elif found[2] == "q":
            parts = [tensors[f"{found[1]}{part}.{found[3]}"] for part in "qkv"]
            named[f"{found[1]}qkv.{found[3]}"] = torch.cat(parts)
    return named
