"""A small ViT and six photos of two classes."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

import dino_cli
from dino_cli.core.network.architecture import VitArchitecture
from dino_cli.core.network.vit import build_vit


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    net = build_vit(VitArchitecture(width=64, depth=2, heads=2, patch_size=16, grid=(4, 4)))
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    tensors = {k: v * (8 if v.ndim > 1 else 1) for k, v in net.state_dict().items()}
    save_file(tensors, path)
    return path


@pytest.fixture(scope="module")
def model(weights: Path) -> dino_cli.Model:
    return dino_cli.load_model(weights=weights, heads=2, device="cpu", precision="fp32")


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for i, (name, colour) in enumerate({"a": (200, 40, 40), "b": (30, 60, 210)}.items()):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for j in range(3):
            noise = np.random.default_rng(10 * i + j).normal(0, 25, (70, 90 - j, 3))
            pixels = np.clip(noise + colour, 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(tmp_path / "photos" / name / f"{j}.png")
    return tmp_path / "photos"
