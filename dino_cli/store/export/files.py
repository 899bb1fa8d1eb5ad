"""Writing tensors under the names of another program."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dino_cli.core.network.architecture import architecture_to_json
from dino_cli.errors import TaskError
from dino_cli.store.export.huggingface import huggingface_config, preprocessor_config
from dino_cli.store.export.names import huggingface_names, reference_names
from dino_cli.store.weights.load import Weights
from dino_cli.store.writing.tensors import save_state, save_tensors

__all__ = ["halved", "write_huggingface", "write_reference", "write_timm"]


def halved(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Floating-point tensors in half precision. Raises `TaskError` for values beyond its range."""
    half = {name: t.half() if t.is_floating_point() else t for name, t in tensors.items()}
    for name, tensor in half.items():
        if tensor.is_floating_point() and not torch.isfinite(tensor.sum(dtype=torch.float32)):
            raise TaskError(
                f"the tensor {name!r} has values beyond the range of half precision",
                "leave out --half",
            )
    return half


def write_reference(weights: Weights, path: Path, *, half: bool) -> None:
    """A plain `torch.save` of the state dict, as the original's backbone files."""
    named = reference_names(weights.architecture, weights.tensors)
    with path.open("wb") as file:  # given a path, torch would store its random name inside
        save_state(file, _stored(named, half=half))


def write_timm(weights: Weights, path: Path, *, half: bool) -> None:
    """.safetensors for `timm.create_model(checkpoint_path=…)`; its header tells `dino` the rest.

    timm builds no convolutional stem: with one, the file is for `dino` alone.
    """
    a = weights.architecture
    about = {
        "architecture": architecture_to_json(a),
        "preprocessing": asdict(weights.preprocessing),
        "attention_size": weights.attention_size,
    }
    metadata = {"format": "pt", "dino": json.dumps(about)}
    save_tensors(path, _stored(weights.tensors, half=half), metadata)


def write_huggingface(weights: Weights, folder: Path, *, half: bool) -> None:
    """config.json, model.safetensors and preprocessor_config.json in an existing folder."""
    config = huggingface_config(weights.architecture, weights.tensors, half=half)
    named = _stored(huggingface_names(weights.architecture, weights.tensors), half=half)
    _write_json(folder / "config.json", config)
    _write_json(folder / "preprocessor_config.json", preprocessor_config(weights.preprocessing))
    save_tensors(folder / "model.safetensors", named, {"format": "pt"})


def _stored(tensors: Mapping[str, Tensor], *, half: bool) -> dict[str, Tensor]:
    return {
        name: tensor.contiguous()
        for name, tensor in (halved(tensors) if half else dict(tensors)).items()
    }


def _write_json(path: Path, values: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
