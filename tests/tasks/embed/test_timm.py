"""Any network of timm's, read as timm reads it."""

import json
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file
from timm.data import create_transform, resolve_data_config
from typer.testing import CliRunner

from dino_cli.cli.app import app

NAMES = [
    *(pytest.param(name, marks=pytest.mark.slow) for name in ("vit_tiny_patch16_224", "resnet18")),
    "test_vit3",  # registers, and no class token
    "test_convnext",
]


@pytest.mark.parametrize("name", NAMES)
def test_features_equal_timms_own(photos: Path, tmp_path: Path, name: str) -> None:
    torch.manual_seed(0)
    net = timm.create_model(name, num_classes=0).eval()
    save_file({k: v.contiguous() for k, v in net.state_dict().items()}, tmp_path / "w.safetensors")
    paths = sorted(photos.glob("*/*.png"))
    arguments = [
        "embed", photos, "-o", tmp_path / "f.npy", "--weights", tmp_path / "w.safetensors",
        "--arch", name, "--device", "cpu", "--precision", "fp32", "--workers", 0,
    ]  # fmt: skip
    result = CliRunner().invoke(app, list(map(str, arguments)))
    assert result.exit_code == 0, result.output
    config = resolve_data_config({}, model=net)
    transform = create_transform(**config)
    with torch.inference_mode():
        expected = [net(transform(Image.open(p).convert("RGB"))[None])[0].numpy() for p in paths]
    np.testing.assert_allclose(np.load(tmp_path / "f.npy"), np.stack(expected), atol=2e-4)
    read = json.loads((tmp_path / "f.json").read_text())["preprocessing"]
    assert read["mean"] == pytest.approx(config["mean"])
    assert read["crop"] == config["input_size"][-1]
    assert read["interpolation"] == config["interpolation"]
