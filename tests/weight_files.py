"""Tensors of a small ViT, and weights read back from a file."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dino_cli.core.network.architecture import VitArchitecture
from dino_cli.core.network.vit import build_vit
from dino_cli.store.weights.load import Weights, load

SMALL = VitArchitecture(width=64, depth=2, heads=1, patch_size=16, grid=(14, 14))


def tensors_of(architecture: VitArchitecture, seed: int = 0) -> dict[str, Tensor]:
    torch.manual_seed(seed)
    net = build_vit(architecture)
    return {k: torch.randn_like(t) if t.ndim else t for k, t in net.state_dict().items()}


def read(path: Path, **options: Any) -> Weights:
    return load(model="", weights=path, **options)


def assert_equal(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    assert found.keys() == wanted.keys()
    for name, tensor in wanted.items():
        exact = tensor.float() if tensor.is_floating_point() else tensor
        torch.testing.assert_close(found[name], exact, rtol=0, atol=0, msg=name)
