"""Networks to measure with: random weights, so that nothing need be downloaded."""

import torch
from torch import nn

from dino_cli.config.shared import Preprocessing
from dino_cli.core.network.architecture import VIT_SIZES, VitArchitecture
from dino_cli.core.network.backbone import Backbone
from dino_cli.core.network.vit import build_vit
from dino_cli.errors import UsageError
from dino_cli.runtime import choose_precision
from dino_cli.store.weights.load import Weights
from dino_cli.tasks.bench import reference
from dino_cli.tasks.model import Model

__all__ = ["architecture", "twins"]


def architecture(arch: str, patch_size: int) -> VitArchitecture:
    """A DINO ViT for views of 224 pixels. Raises `UsageError` for an impossible patch."""
    if not 0 < patch_size <= 112:
        raise UsageError(f"--patch-size {patch_size} is not from 1 to 112")
    width, depth, heads = VIT_SIZES[arch]
    grid = 224 // patch_size
    return VitArchitecture(
        width=width, depth=depth, heads=heads, patch_size=patch_size, grid=(grid, grid)
    )


def twins(
    arch: str, patch_size: int, device: torch.device, precision: str
) -> tuple[Model, nn.Module]:
    """The same random weights as our model, and as timm's plain network in fp32, both to use."""
    torch.manual_seed(0)
    described = architecture(arch, patch_size)
    net = build_vit(described)
    plain = reference.backbone(arch, patch_size).eval()
    plain.load_state_dict(net.state_dict())
    weights = Weights(
        architecture=described,
        tensors={},
        name="random",
        source="",
        sha256="",
        preprocessing=Preprocessing(),
        attention_size=480,
    )
    chosen = choose_precision(precision, device)
    model = Model(Backbone(net.to(device)), device, chosen, weights)
    return model, plain.to(device)
