"""What network a set of tensors belongs to, read off their shapes."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor

from dino_cli.core.network.architecture import (
    VIT_NAMES,
    VIT_SIZES,
    Architecture,
    Positions,
    TimmArchitecture,
    VitArchitecture,
)
from dino_cli.errors import TaskError
from dino_cli.store.weights.dinov3 import rope_temperature
from dino_cli.store.weights.layouts import NamedTensors
from dino_cli.store.weights.registry import entries

__all__ = ["ArchitectureHints", "is_own_arch", "name_for_arch", "read_architecture"]

Tensors = Mapping[str, Tensor]

ALIASES = {"deit_tiny": "vit_tiny", "deit_small": "vit_small", "deit_base": "vit_base"}
PROJECTION = {False: "patch_embed.proj.weight", True: "patch_embed.proj.0.weight"}  # by conv stem
# Sizes in timm's names of DINOv2's and DINOv3's networks: width, depth, whether MLPs are gated.
NAMED_SIZES = {
    "small": (384, 12, False),
    "small_plus": (384, 12, True),
    "base": (768, 12, False),
    "large": (1024, 24, False),
    "giant": (1536, 40, True),
    "huge_plus": (1280, 32, True),
    "7b": (4096, 40, True),
}
WHOLE = "give whole weights, or name the timm model with --arch"
# What the architecture is read from, and how many dimensions it must have; all other tensors are
# compared with the built network.
DIMENSIONS = {
    "cls_token": 3,
    "pos_embed": 3,
    "reg_token": 3,
    "blocks.0.mlp.fc1.weight": 2,
    "blocks.0.mlp.fc1_g.weight": 2,
    PROJECTION[False]: 4,
    PROJECTION[True]: 4,
}


@dataclass(frozen=True, kw_only=True)
class ArchitectureHints:
    """What the person or the registry says about the architecture; None: read it off the tensors.

    config: of a Hugging Face `config.json`.
    """

    arch: str | None = None
    patch_size: int | None = None
    heads: int | None = None
    config: Mapping[str, Any] = field(default_factory=dict)


def is_own_arch(name: str | None) -> bool:
    """Whether `--arch` is a ViT whose tensors tell the rest, rather than one that timm builds."""
    return name is None or ALIASES.get(name, name) in VIT_SIZES


def name_for_arch(a: Architecture) -> str | None:
    """What `dino train --arch` calls such a network, whose patch size and positions may be others:
    ours, timm's, or that of the registered model that it is. None where it has no name."""
    if isinstance(a, TimmArchitecture):
        changed = a.arguments
        if "embed_dim" not in changed:
            return a.name.split(".")[0]
        size = changed["embed_dim"], changed["depth"], bool(changed.get("swiglu_mlp"))
        return _registered(size, f"_patch{changed['patch_size']}_dinov3")
    if not (a.layer_scale or a.registers or a.swiglu):
        return VIT_NAMES.get(a.size)
    registers = f"_reg{a.registers}" if a.registers else ""
    size = a.width, a.depth, a.swiglu
    return _registered(size, f"_patch{a.patch_size}{registers}_dinov2")


def _registered(size: tuple[int, int, bool], rest: str) -> str | None:
    names = (f"vit_{name}{rest}" for name, known in NAMED_SIZES.items() if known == size)
    known = {entry.architecture for entry in entries().values()}
    return next((name for name in names if name in known), None)


def read_architecture(named: NamedTensors, known: ArchitectureHints) -> Architecture:
    """The architecture of tensors under timm's names. Raises `TaskError` when it cannot be told."""
    _expect_dimensions(named.tensors)
    _expect_activation(named, known.config)
    if named.kind == "resnet":
        return _resnet(named.tensors, known)
    if named.kind == "dinov3":
        return _dinov3(named, known)
    eps = 1e-6
    if named.huggingface:  # transformers' ViT has another default than its Dinov2
        default = 1e-6 if "blocks.0.ls1.gamma" in named.tensors else 1e-12
        eps = float(known.config.get("layer_norm_eps", default))
    return _vit(named.tensors, known, eps=eps, supervised=named.supervised)


def _vit(
    tensors: Tensors, known: ArchitectureHints, *, eps: float, supervised: bool
) -> VitArchitecture:
    for name in ("cls_token", "pos_embed", "blocks.0.mlp.fc1.weight"):
        if name not in tensors:
            raise TaskError(f"the tensor {name!r} is missing, which tells the architecture", WHOLE)
    width, depth = tensors["cls_token"].shape[-1], _depth(tensors)
    stem = PROJECTION[True] in tensors
    patch_size = _patch_size(tensors, stem=stem)
    _agree(width, depth, patch_size, known)
    registers = tensors["reg_token"].shape[1] if "reg_token" in tensors else 0
    scaled = "blocks.0.ls1.gamma" in tensors
    positions: Positions = "dino"
    if registers or supervised:
        positions = "timm"
    elif scaled:
        positions = "size"
    grid, embed_class = _grid(tensors["pos_embed"].shape[1], registers)
    return VitArchitecture(
        width=width,
        depth=depth,
        heads=_heads(width, known),
        patch_size=patch_size,
        grid=grid,
        in_chans=tensors[PROJECTION[stem]].shape[1],
        mlp_ratio=_ratio(tensors["blocks.0.mlp.fc1.weight"].shape[0], width),
        eps=eps,
        positions=positions,
        layer_scale=scaled,
        registers=registers,
        embed_class=embed_class,
        conv_stem=stem,
        swiglu=_is_gated(tensors),
    )


def _is_gated(tensors: Tensors) -> bool:
    """SwiGLU: the first matrix of the MLP makes twice as many values as the second one takes."""
    first, second = tensors["blocks.0.mlp.fc1.weight"], tensors.get("blocks.0.mlp.fc2.weight")
    return second is not None and second.ndim == 2 and first.shape[0] == 2 * second.shape[1]


def _ratio(hidden: int, width: int) -> float:
    """A float of which timm's int(width * ratio) is `hidden` again."""
    ratio = hidden / width
    return ratio if int(width * ratio) == hidden else math.nextafter(ratio, math.inf)


def _expect_dimensions(tensors: Tensors) -> None:
    for name, count in DIMENSIONS.items():
        if name in tensors and (tensors[name].ndim != count or 0 in tensors[name].shape):
            shape = "x".join(map(str, tensors[name].shape)) or "of a number"
            raise TaskError(
                f"the tensor {name!r} has the shape {shape}, where {count} dimensions belong", WHOLE
            )


def _expect_activation(named: NamedTensors, config: Mapping[str, Any]) -> None:
    """No tensor tells the activation, so that another one would give other features in silence."""
    gated = "blocks.0.mlp.fc1_g.weight" in named.tensors
    wanted = {"vit": "gelu", "dinov3": "silu" if gated else "gelu", "resnet": "relu"}[named.kind]
    found = config.get("hidden_act", wanted)
    if found != wanted and not (named.kind == "vit" and config.get("use_swiglu_ffn")):
        raise TaskError(
            f"its config.json asks for the activation {found!r}, where {wanted!r} belongs",
            "use other weights",
        )


def _depth(tensors: Tensors) -> int:
    found = (re.match(r"blocks\.(\d{1,4})\.", name) for name in tensors)
    return 1 + max((int(match[1]) for match in found if match), default=0)


def _grid(entries: int, registers: int) -> tuple[tuple[int, int], bool]:
    """The position grid, and whether CLS has an entry besides."""
    for patches, embed_class in ((entries - 1, True), (entries, False)):
        side = math.isqrt(patches)
        if side and side * side == patches and (embed_class or registers):
            return (side, side), embed_class
    raise TaskError(
        f"the position embedding has {entries} entries, which is not a square grid and CLS",
        "give square weights, or a run folder of `dino train`",
    )


def _patch_size(tensors: Tensors, *, stem: bool) -> int:
    if stem:
        found = (re.fullmatch(r"patch_embed\.proj\.(\d+)\.weight", name) for name in tensors)
        return int(2 ** (max(int(match[1]) for match in found if match) // 3))
    rows, columns = tensors[PROJECTION[False]].shape[-2:]
    if rows != columns:
        raise TaskError(f"its patches of {rows}x{columns} pixels are not square", "use others")
    return rows


def _heads(width: int, known: ArchitectureHints) -> int:
    heads = known.heads or known.config.get("num_attention_heads")
    if heads is None and known.arch is not None:
        heads = VIT_SIZES[ALIASES.get(known.arch, known.arch)][2]
    if heads is None:
        if width % 64:
            raise TaskError(
                f"its width {width} is not a multiple of 64, so the number of heads cannot be told",
                "give it with --heads",
            )
        heads = width // 64
    if not isinstance(heads, int) or heads < 1 or width % heads:
        raise TaskError(f"its width {width} cannot be shared by {heads} heads", "change --heads")
    return heads


def _agree(width: int, depth: int, patch_size: int, known: ArchitectureHints) -> None:
    """Raises `TaskError` when the tensors are not those of what was asked for."""
    if known.patch_size is not None and known.patch_size != patch_size:
        raise TaskError(
            f"its patch size is {patch_size}, not {known.patch_size}", "leave --patch-size out"
        )
    if known.arch is not None:
        size = VIT_SIZES[ALIASES.get(known.arch, known.arch)]
        if (width, depth) != size[:2]:
            raise TaskError(
                f"it is {width} wide and {depth} blocks deep, but {known.arch} is {size[0]} wide"
                f" and {size[1]} deep",
                "leave --arch out",
            )


def _dinov3(named: NamedTensors, known: ArchitectureHints) -> TimmArchitecture:
    """timm's Eva with rotary positions; the LayerNorm eps, 1e-5, is among timm's arguments."""
    tensors, temperature = named.tensors, float(known.config.get("rope_theta", 100.0))
    gated = "blocks.0.mlp.fc1_g.weight" in tensors
    hidden = f"blocks.0.mlp.{'fc1_g' if gated else 'fc1'}.weight"
    if hidden not in tensors:
        raise TaskError(f"the tensor {hidden!r} is missing, which tells the architecture", WHOLE)
    width = tensors[PROJECTION[False]].shape[0]
    if named.periods is not None:
        temperature = rope_temperature(named.periods)
        known = replace(known, heads=known.heads or width // (4 * named.periods.numel()))
    arguments: dict[str, Any] = {
        "embed_dim": width,
        "depth": _depth(tensors),
        "num_heads": _heads(width, known),
        "patch_size": _patch_size(tensors, stem=False),
        "num_reg_tokens": tensors["reg_token"].shape[1] if "reg_token" in tensors else 0,
        "mlp_ratio": _ratio(tensors[hidden].shape[0], width),
        "global_pool": "token",
        "rope_temperature": temperature,
    }
    if gated:
        arguments |= {"swiglu_mlp": True, "swiglu_align_to": 8}
    biased = "blocks.0.attn.q_bias" in tensors
    return TimmArchitecture(
        name=f"vit_small_patch16_dinov3{'_qkvb' if biased else ''}",
        in_chans=tensors[PROJECTION[False]].shape[1],
        arguments=arguments,
    )


def _resnet(tensors: Tensors, known: ArchitectureHints) -> TimmArchitecture:
    """ResNet-50, or one with other numbers and widths of bottlenecks."""
    if known.patch_size or known.heads:
        raise TaskError(
            "it is a ResNet, which has no patches and no heads",
            "leave --patch-size and --heads out",
        )
    layers, channels = [], []
    for stage in range(1, 5):
        first = tensors.get(f"layer{stage}.0.conv1.weight")
        if first is None or first.ndim != 4 or f"layer{stage}.0.conv3.weight" not in tensors:
            raise TaskError("it is not a ResNet of bottlenecks", WHOLE)
        blocks = {name.split(".")[1] for name in tensors if name.startswith(f"layer{stage}.")}
        layers.append(len(blocks))
        channels.append(first.shape[0])
    arguments: dict[str, Any] = {}
    if layers != [3, 4, 6, 3] or channels != [64, 128, 256, 512]:
        arguments = {"layers": layers, "channels": channels}
    return TimmArchitecture(
        name="resnet50", in_chans=tensors["conv1.weight"].shape[1], arguments=arguments
    )
