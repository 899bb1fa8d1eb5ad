"""What a file of weights holds, without building a network: told from names and shapes."""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from dino_cli.core.network.architecture import (
    Architecture,
    VitArchitecture,
    architecture_to_json,
)
from dino_cli.errors import TaskError
from dino_cli.store.weights.architectures import (
    ArchitectureHints,
    name_for_arch,
    read_architecture,
)
from dino_cli.store.weights.dinov3 import PERIODS
from dino_cli.store.weights.folders import Source, open_source
from dino_cli.store.weights.heads import read_head
from dino_cli.store.weights.layouts import (
    bare_names,
    is_finite,
    network_of,
    networks_in,
    own_backbone,
    to_timm_names,
)
from dino_cli.store.weights.lookalikes import looks_like
from dino_cli.store.weights.shapes import vit_shapes

__all__ = ["inspect_weights"]

SIGNS = {
    PERIODS: "facebookresearch/dinov3",
    "embeddings.patch_embeddings.weight": "Hugging Face DINOv3ViTModel",
    "embedder.embedder.convolution.weight": "Hugging Face ResNetModel",
}


def inspect_weights(path: Path, checkpoint_key: str) -> dict[str, Any]:
    """Everything about a file, run folder or Hugging Face folder, JSON-ready.

    Keys: path, files, bytes, sha256, layout, networks, head (the options of `dino train` that make
    its projection head, None without one), beside (what is no network), tensors, parameters,
    dtypes, not_finite, architecture (None when it cannot be told), arch (what `dino train --arch`
    calls such a network, None where it has no name), heads_known (its heads are
    written somewhere, not inferred from a width of 64 each), fits, and for what does not fit
    missing, unexpected, misshapen, reason, looks_like. Raises `TaskError` when the file cannot be
    read at all.
    """
    source = open_source(path, checkpoint_key)
    tensors = network_of(source.content, checkpoint_key)
    told: dict[str, Any] = {
        "path": str(path),
        "files": [str(file) for file in source.files],
        "bytes": sum(file.stat().st_size for file in source.files),
        "sha256": source.sha256(),
        "layout": _layout(tensors, source),
        "networks": networks_in(source.content),
        "head": head.options if (head := read_head(path)) else None,
        "beside": sorted(str(k) for k, v in source.content.items() if not isinstance(v, Tensor)),
        "tensors": len(tensors),
        "parameters": sum(t.numel() for t in tensors.values() if t.is_floating_point()),
        "dtypes": dict(Counter(str(t.dtype).removeprefix("torch.") for t in tensors.values())),
        "not_finite": [name for name, t in tensors.items() if not is_finite(t)],
        "architecture": None,
        "arch": None,
        "heads_known": source.own is not None
        or "num_attention_heads" in source.config
        or PERIODS in bare_names(tensors),
        "fits": False,
        "missing": [],
        "unexpected": [],
        "misshapen": [],
        "reason": None,
        "looks_like": None,
    }
    told["beside"] = [key for key in told["beside"] if key not in told["networks"]]
    try:
        architecture, named = _arranged(tensors, source)
    except TaskError as error:
        return {**told, "reason": str(error), "looks_like": looks_like(tensors)}
    told["architecture"] = architecture_to_json(architecture)
    told["arch"] = name_for_arch(architecture)
    told |= _compared(architecture, named)
    told["fits"] = not any(told[k] for k in ("missing", "unexpected", "misshapen", "not_finite"))
    return told


def _arranged(tensors: Mapping[str, Tensor], source: Source) -> tuple[Architecture, Any]:
    """Matrices are their shapes alone, meta tensors, so that fusing costs nothing."""
    shapes = {name: t.to("meta") if t.ndim > 1 else t for name, t in tensors.items()}
    if source.own is not None:
        return source.own.architecture, own_backbone(shapes)
    named = to_timm_names(shapes)
    return read_architecture(named, ArchitectureHints(config=source.config)), named.tensors


def _compared(a: Architecture, named: Mapping[str, Tensor]) -> dict[str, list[str]]:
    if isinstance(a, VitArchitecture):
        wanted = vit_shapes(a)
    else:  # no other has a rule of its own here; timm, slow to import, lays it out without values
        from dino_cli.store.weights.empty import empty_network

        wanted = {name: tuple(t.shape) for name, t in empty_network(a).state_dict().items()}
    return {
        "missing": [n for n in wanted if n not in named and not n.endswith("batches_tracked")],
        "unexpected": [name for name in named if name not in wanted],
        "misshapen": [
            f"{name} {list(named[name].shape)} instead of {list(shape)}"
            for name, shape in wanted.items()
            if name in named and tuple(named[name].shape) != shape
        ],
    }


def _layout(tensors: Mapping[str, Tensor], source: Source) -> str:
    """The naming, in words."""
    names = bare_names(tensors)
    wrapped = "" if names.keys() == tensors.keys() else ", with prefixes of a wrapper"
    if source.own is not None:
        return "dino train"
    for sign, layout in SIGNS.items():
        if sign in names:
            return layout + wrapped
    if "embeddings.patch_embeddings.projection.weight" in names:
        scaled = any(name.endswith("layer_scale1.lambda1") for name in names)
        kind = (
            "Dinov2WithRegistersModel" if "embeddings.register_tokens" in names else "Dinov2Model"
        )
        memory = any("attention.q_proj." in name for name in names)
        named = ", named as in memory" if memory else ""
        return f"Hugging Face {kind if scaled else 'ViTModel'}{named}{wrapped}"
    if "register_tokens" in names or "mask_token" in names:
        return "facebookresearch/dinov2" + wrapped
    if any(name.startswith("patch_embed.") for name in names):
        return "facebookresearch/dino, which is timm's" + wrapped
    if "layer1.0.conv1.weight" in names:
        return "torchvision ResNet" + wrapped
    return "unknown"
