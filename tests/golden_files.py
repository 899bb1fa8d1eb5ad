"""Where the original's numbers lie, and how they are read."""

import json
import os
from pathlib import Path
from typing import Any

import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor

from dino_cli.core.network.architecture import VitArchitecture
from dino_cli.core.network.backbone import Backbone, build

SHIPPED_GOLDEN = Path(__file__).parent / "golden"


def golden_folder() -> Path:
    """DINO_GOLDEN_DIR, else the copy beside the tests."""
    return Path(os.environ.get("DINO_GOLDEN_DIR", SHIPPED_GOLDEN))


class Golden:
    """Reads files of the golden folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def tensors(self, name: str) -> dict[str, Tensor]:
        return load_file(self.folder / f"{name}.safetensors")

    def json(self, name: str) -> Any:
        return json.loads((self.folder / f"{name}.json").read_text())


def eval_golden_folder() -> Path:
    """DINO_GOLDEN_EVAL_DIR, else the copy beside the tests."""
    return Path(os.environ.get("DINO_GOLDEN_EVAL_DIR", SHIPPED_GOLDEN / "eval"))


def hf_golden_folder() -> Path:
    """DINO_GOLDEN_HF_DIR, else the copy beside the tests."""
    return Path(os.environ.get("DINO_GOLDEN_HF_DIR", SHIPPED_GOLDEN / "hf"))


def golden_backbone(tensors: dict[str, Tensor], heads: int) -> Backbone:
    """The original's ViT; all but its heads is in the shapes."""
    side = round((tensors["pos_embed"].shape[1] - 1) ** 0.5)
    net = build(
        VitArchitecture(
            width=tensors["cls_token"].shape[-1],
            depth=len({key.split(".")[1] for key in tensors if key.startswith("blocks.")}),
            heads=heads,
            patch_size=tensors["patch_embed.proj.weight"].shape[-1],
            grid=(side, side),
        )
    )
    net.load_state_dict(tensors)
    return Backbone(net)


def enlarged(small: Tensor) -> Tensor:
    """An image from its `*_small`, eight times as large."""
    size = (small.shape[-2] * 8, small.shape[-1] * 8)
    return F.interpolate(small, size=size, mode="bilinear", align_corners=False)
