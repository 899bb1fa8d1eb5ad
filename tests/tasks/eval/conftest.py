"""What linear classifiers are judged by, and a checkpoint of two networks."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file


@pytest.fixture
def val(photos: Path) -> Path:
    """New photos of the classes, noisier ones."""
    for i, path in enumerate(sorted(photos.glob("*/*.png"))):
        noise = np.random.default_rng(100 + i).normal(0, 20, np.asarray(Image.open(path)).shape)
        pixels = np.clip(np.asarray(Image.open(path)) + noise, 0, 255).astype(np.uint8)
        folder = photos.parent / "val" / path.parent.name
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(folder / path.name)
    return photos.parent / "val"


@pytest.fixture
def full(tmp_path: Path, make_weights: Any) -> Path:
    """A full checkpoint, as the original's: two networks in one file."""
    made = {
        name: load_file(make_weights(tmp_path / f"{name}.safetensors", seed=seed))
        for name, seed in (("teacher", 7), ("student", 8))
    }
    networks = {
        name: {f"module.backbone.{key}": tensor for key, tensor in tensors.items()}
        for name, tensors in made.items()
    }
    torch.save(networks, tmp_path / "full.pth")
    return tmp_path / "full.pth"
