"""Files of weights, in every layout that is read."""

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from faults.reads.base import command, loading, reader, tensors
from safetensors.torch import save_file
from small_vit import write_small_vit


@reader
def pth(folder: Path) -> Any:
    torch.save(tensors(), folder / "w.pth")
    return [folder / "w.pth"], loading(folder / "w.pth")


@reader
def pth_legacy(folder: Path) -> Any:
    torch.save(tensors(), folder / "w.pth", _use_new_zipfile_serialization=False)
    return [folder / "w.pth"], loading(folder / "w.pth")


@reader
def pth_checkpoint(folder: Path) -> Any:
    names = {f"module.backbone.{name}": tensor for name, tensor in tensors().items()}
    content = {"teacher": names, "student": names, "args": argparse.Namespace(arch="vit_small")}
    torch.save({**content, "epoch": 3}, folder / "checkpoint.pth")
    return [folder / "checkpoint.pth"], loading(folder / "checkpoint.pth")


@reader
def safetensors(folder: Path) -> Any:
    save_file(tensors(), folder / "w.safetensors")
    return [folder / "w.safetensors"], loading(folder / "w.safetensors")


@reader
def own_weights(folder: Path) -> Any:
    path = write_small_vit(folder / "w.safetensors")
    return [path], loading(path)


@reader
def huggingface(folder: Path) -> Any:
    named = tensors()
    half = len(named) // 2
    parts = {"pytorch_model-1.bin": list(named)[:half], "pytorch_model-2.bin": list(named)[half:]}
    for file, names in parts.items():
        torch.save({name: named[name] for name in names}, folder / file)
    index = {"weight_map": {name: file for file, names in parts.items() for name in names}}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"metadata": {}, **index}))
    config = {"model_type": "vit", "hidden_size": 64, "num_attention_heads": 1, "patch_size": 16}
    (folder / "config.json").write_text(json.dumps({**config, "layer_norm_eps": 1e-12}))
    size = {"height": 224, "width": 224}
    looks = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3, "size": size, "do_resize": True}
    (folder / "preprocessor_config.json").write_text(json.dumps(looks))
    return sorted(folder.iterdir()), loading(folder)


@reader
def inspect(folder: Path) -> Any:
    torch.save(tensors(), folder / "w.pth")
    save_file(tensors(), folder / "w.safetensors")
    both = [folder / "w.pth", folder / "w.safetensors"]
    return both, lambda: [command("weights", "inspect", path) for path in both]
