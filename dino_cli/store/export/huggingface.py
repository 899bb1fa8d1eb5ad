"""The two JSON files of a Hugging Face folder: what the network is, and how it wants its images."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from dino_cli.config.shared import Preprocessing
from dino_cli.core.network.architecture import Architecture, VitArchitecture
from dino_cli.errors import TaskError
from dino_cli.store.export.names import huggingface_family
from dino_cli.store.weights.empty import empty_network

__all__ = ["huggingface_config", "preprocessor_config"]

CLASSES = {
    "vit": "ViTModel",
    "dinov2": "Dinov2Model",
    "dinov2_with_registers": "Dinov2WithRegistersModel",
    "dinov3_vit": "DINOv3ViTModel",
    "resnet": "ResNetModel",
}
RESAMPLE = {"nearest": 0, "lanczos": 1, "bilinear": 2, "bicubic": 3}  # PIL's numbers


def huggingface_config(
    architecture: Architecture, tensors: Mapping[str, Tensor], *, half: bool
) -> dict[str, Any]:
    """`config.json`. tensors: under our names. Raises `TaskError` when no class fits."""
    family = huggingface_family(architecture, tensors)
    common = {
        "architectures": [CLASSES[family]],
        "model_type": family,
        "torch_dtype": "float16" if half else "float32",
        "num_channels": architecture.in_chans,
    }
    if family == "resnet":
        return {**common, **_resnet(tensors)}
    if family == "dinov3_vit":
        return {**common, **_dinov3(architecture, tensors)}
    assert isinstance(architecture, VitArchitecture)
    return {**common, **_vit(architecture, family, tensors)}


def _vit(a: VitArchitecture, family: str, tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    height, width = (side * a.patch_size for side in a.grid)
    if family != "vit" and height != width:
        raise TaskError(
            f"transformers' {CLASSES[family]} wants a square position grid, and this one is"
            f" {a.grid[0]}x{a.grid[1]}",
            "export timm's .safetensors or .onnx",
        )
    hidden = tensors["blocks.0.mlp.fc1.weight"].shape[0]
    values: dict[str, Any] = {
        "hidden_size": a.width,
        "num_hidden_layers": a.depth,
        "num_attention_heads": a.heads,
        "hidden_act": "gelu",
        "image_size": height if height == width else [height, width],
        "patch_size": a.patch_size,
        "layer_norm_eps": a.eps,
        "qkv_bias": True,
    }
    if family == "vit":
        return {**values, "intermediate_size": hidden}
    if family == "dinov2_with_registers":
        values["num_register_tokens"] = a.registers
    return {
        **values,
        "mlp_ratio": _mlp_ratio(a.width, hidden, gated=a.swiglu),
        "use_swiglu_ffn": a.swiglu,
    }


def _mlp_ratio(width: int, hidden: int, *, gated: bool) -> int | float:
    """What transformers' Dinov2 computes its hidden width from, which is `hidden` again.

    hidden: rows of the first matrix; gated, that is both halves, each of which transformers makes
    as two thirds of width * ratio, rounded up to a multiple of 8.
    """
    wanted = hidden // 2 if gated else hidden
    near = wanted * 3 / 2 / width if gated else wanted / width
    for ratio in (round(near), near, near * (1 - 1e-3), near * (1 + 1e-9)):
        whole = int(width * ratio)
        if ((int(whole * 2 / 3) + 7) // 8 * 8 if gated else whole) == wanted:
            return ratio
    raise TaskError(
        f"transformers' Dinov2 cannot make an MLP of {wanted} values at width {width}",
        "export timm's .safetensors or .onnx",
    )


def _dinov3(architecture: Architecture, tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    net: Any = empty_network(architecture)
    gated = "blocks.0.mlp.fc1_g.weight" in tensors
    biased = "blocks.0.attn.q_bias" in tensors
    patch_size = int(net.patch_embed.patch_size[0])
    return {
        "hidden_size": int(net.embed_dim),
        "intermediate_size": tensors[f"blocks.0.mlp.{'fc1_g' if gated else 'fc1'}.weight"].shape[0],
        "num_hidden_layers": len(net.blocks),
        "num_attention_heads": int(net.blocks[0].attn.num_heads),
        "hidden_act": "silu" if gated else "gelu",
        "use_gated_mlp": gated,
        "image_size": int(net.patch_embed.img_size[0]),
        "patch_size": patch_size,
        "layer_norm_eps": float(net.norm.eps),
        "rope_theta": float(net.rope.temperature),
        "num_register_tokens": tensors["reg_token"].shape[1] if "reg_token" in tensors else 0,
        "query_bias": biased,
        "key_bias": False,
        "value_bias": biased,
        "proj_bias": True,
        "mlp_bias": True,
    }


def _resnet(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    stages = range(1, 5)
    return {
        "embedding_size": tensors["conv1.weight"].shape[0],
        "hidden_sizes": [tensors[f"layer{s}.0.conv3.weight"].shape[0] for s in stages],
        "depths": [
            len({n.split(".")[1] for n in tensors if n.startswith(f"layer{s}.")}) for s in stages
        ],
        "layer_type": "bottleneck",
        "hidden_act": "relu",
        "downsample_in_first_stage": False,
        "downsample_in_bottleneck": False,
    }


def preprocessor_config(p: Preprocessing) -> dict[str, Any]:
    """`preprocessor_config.json`: the same resize, crop and normalisation."""
    stretched = isinstance(p.resize, tuple)
    values: dict[str, Any] = {
        "image_processor_type": "ViTImageProcessor" if stretched else "BitImageProcessor",
        "do_convert_rgb": len(p.mean) == 3,
        "do_resize": p.resize is not None,
        "resample": RESAMPLE[p.interpolation],
        "do_center_crop": p.crop is not None,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(p.mean),
        "image_std": list(p.std),
    }
    if isinstance(p.crop, tuple):  # nothing there resizes to cover a rectangle: stretched to it
        values |= {"image_processor_type": "ViTImageProcessor", "do_center_crop": False}
        return {**values, "size": {"height": p.crop[0], "width": p.crop[1]}}
    if isinstance(p.resize, tuple):
        values["size"] = {"height": p.resize[0], "width": p.resize[1]}
    elif p.resize is not None:
        values["size"] = {"shortest_edge": p.resize}
    if p.crop is not None:
        values["crop_size"] = {"height": p.crop, "width": p.crop}
    return values
