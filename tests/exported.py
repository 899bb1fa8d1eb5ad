"""Small networks of every kind, exported by the command, and what they compute themselves."""

import json
import re
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor
from typer.testing import CliRunner, Result

from dino_cli.cli.app import app
from dino_cli.config.embed import EmbedConfig
from dino_cli.config.shared import Preprocessing
from dino_cli.core.network.architecture import (
    Architecture,
    TimmArchitecture,
    VitArchitecture,
    architecture_to_json,
)
from dino_cli.core.network.backbone import build
from dino_cli.progress import Reporter
from dino_cli.tasks.model import Model, open_model

FEATURES, ONNX = 2e-5, 1e-4  # largest absolute difference
VIT = VitArchitecture(width=96, depth=2, heads=3, patch_size=8, grid=(6, 6))
DINOV2 = replace(VIT, layer_scale=True, positions="size", patch_size=14)
REGISTERS = replace(DINOV2, registers=3, embed_class=False, positions="timm")
GIANT = replace(DINOV2, swiglu=True, mlp_ratio=512 / 96)
EVA = {
    "embed_dim": 96,
    "depth": 2,
    "num_heads": 3,
    "global_pool": "token",
    "dynamic_img_size": True,
}
DINOV3 = TimmArchitecture(
    name="vit_small_patch16_dinov3_qkvb", arguments={**EVA, "num_reg_tokens": 4}
)
GATED = replace(DINOV3, arguments={**DINOV3.arguments, "swiglu_mlp": True, "swiglu_align_to": 8})
PLAIN_V3 = TimmArchitecture(name="vit_small_patch16_dinov3", arguments=EVA)
RESNET = TimmArchitecture(
    name="resnet50", arguments={"layers": [1, 2, 1, 1], "channels": [4, 8, 12, 16]}
)
XCIT = TimmArchitecture(
    name="xcit_nano_12_p16_224", arguments={"embed_dim": 32, "depth": 2, "num_heads": 2}
)
NETWORKS = {
    "vit": VIT,
    "dinov2": DINOV2,
    "registers": REGISTERS,
    "giant": GIANT,
    "dinov3": DINOV3,
    "gated": GATED,
    "plain_v3": PLAIN_V3,
    "resnet": RESNET,
    "xcit": XCIT,
}


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["export", *map(str, arguments)])


def sentence(result: Result, code: int = 1) -> str:
    assert result.exit_code == code, result.output
    assert result.stdout == ""
    return result.stderr


def randomised(a: Architecture) -> dict[str, Tensor]:
    """Every tensor random, norms, scales and statistics too, so that a swapped one shows."""
    torch.manual_seed(0)
    net = build(a)
    for name, tensor in net.state_dict().items():
        if tensor.is_floating_point():
            size = 0.05 if tensor.ndim > 1 else 0.2
            noise = torch.randn_like(tensor) * size
            ones = name.endswith(("norm1.weight", "norm2.weight", "norm.weight", "bn1.weight"))
            tensor.copy_(noise.abs() + 0.5 if "running_var" in name else noise + float(ones))
    return net.state_dict()


def stored(folder: Path, a: Architecture) -> Path:
    """A file that `dino` reads as exactly this network."""
    about = {
        "architecture": architecture_to_json(a),
        "preprocessing": asdict(Preprocessing(resize=72, crop=64, mean=(0.4, 0.5, 0.6))),
        "attention_size": 128,
    }
    path = folder / "given.safetensors"
    save_file(randomised(a), path, metadata={"dino": json.dumps(about)})
    return path


def opened(path: Path) -> Model:
    return open_model(EmbedConfig(weights=path, device="cpu", precision="fp32"), Reporter())


def native(a: Architecture) -> Tensor:
    """Images at the size where no reader resamples positions."""
    side = a.grid[0] * a.patch_size if isinstance(a, VitArchitecture) else 64
    side = 224 if isinstance(a, TimmArchitecture) and "xcit" in a.name else side
    return torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(1))


def exported(folder: Path, a: Architecture, output: str, *options: str) -> tuple[Path, Path]:
    given = stored(folder, a)
    result = run(given, "-o", folder / output, *options)
    assert result.exit_code == 0, result.output
    return given, folder / output


def code_of(card: Path, folder: Path) -> dict[str, Any]:
    """What the card's Python defines, run in the folder of the file."""
    code = re.search(r"```python\n(.*?)```", card.read_text(), re.DOTALL)
    assert code is not None
    names: dict[str, Any] = {}
    text = re.sub(r'"(out[\w.]*)"', lambda m: f'"{folder / m[1]}"', code[1])
    with torch.no_grad():
        exec(text, names)
    return names


def close(found: Tensor, wanted: Tensor, allowed: float) -> None:
    assert found.shape == wanted.shape
    assert float((found - wanted).abs().max()) < allowed
    assert float(wanted.abs().max()) > 100 * allowed
