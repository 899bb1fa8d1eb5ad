"""`dino weights inspect`: what a file holds, and what it lacks, without building the network."""

import hashlib
import json
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from in_process import dino, sentence
from typer.testing import CliRunner, Result

from dino_cli.cli.app import app
from dino_cli.core.network.architecture import VitArchitecture
from dino_cli.core.network.vit import build_vit
from dino_cli.core.training.head import DinoHead


def inspect(path: Path, *options: str) -> Result:
    return CliRunner().invoke(app, ["weights", "inspect", str(path), *options])


def inspected(path: Path, *options: str) -> dict[str, Any]:
    return dict(json.loads(inspect(path, "--json", *options).stdout))


def test_inspect_tells_what_a_file_holds(tmp_path: Path) -> None:
    a = VitArchitecture(width=128, depth=3, heads=2, patch_size=8, grid=(28, 28))
    tensors = build_vit(a).state_dict()
    torch.save({"teacher": {f"backbone.{k}": t.half() for k, t in tensors.items()},
                "student": {}, "epoch": 3}, tmp_path / "w.pth")  # fmt: skip
    told = inspected(tmp_path / "w.pth")
    assert told["architecture"] == {"kind": "vit", **json.loads(json.dumps(asdict(a)))}
    assert told["arch"] is None
    assert told["fits"]
    assert told["dtypes"] == {"float16": len(tensors)}
    assert told["parameters"] == sum(t.numel() for t in tensors.values())
    assert told["sha256"] == hashlib.sha256((tmp_path / "w.pth").read_bytes()).hexdigest()
    assert told["networks"] == ["student", "teacher"]
    assert told["beside"] == ["epoch"]
    shown = inspect(tmp_path / "w.pth").stdout
    assert "width 128, depth 3, 2 heads" in shown
    assert "28x28, for 224x224 px" in shown


def test_inspect_tells_the_projection_head(tmp_path: Path) -> None:
    a = VitArchitecture(width=64, depth=1, heads=1, patch_size=8, grid=(4, 4))
    backbone = {f"backbone.{name}": tensor for name, tensor in build_vit(a).state_dict().items()}
    head = DinoHead(64, 48, hidden_dim=32, bottleneck_dim=16).state_dict()
    content = {"teacher": backbone | {f"head.{name}": tensor for name, tensor in head.items()}}
    torch.save({**content, "dino_loss": {"center": torch.zeros(1, 48)}}, tmp_path / "full.pth")
    options = {"out_dim": 48, "head_hidden": 32, "head_bottleneck": 16, "use_bn_in_head": False}
    assert inspected(tmp_path / "full.pth")["head"] == options
    assert "48 prototypes, 32 wide, bottleneck 16; goes on" in inspect(tmp_path / "full.pth").stdout
    torch.save({"teacher": backbone}, tmp_path / "bare.pth")
    assert inspected(tmp_path / "bare.pth")["head"] is None


def test_inspect_tells_why_a_file_does_not_fit(tmp_path: Path) -> None:
    a = VitArchitecture(width=64, depth=2, heads=1, patch_size=8, grid=(4, 4))
    tensors = build_vit(a).state_dict()
    gone = tensors.pop("blocks.1.attn.qkv.bias")
    assert gone.ndim == 1
    tensors["extra"] = torch.ones(2)
    tensors["norm.bias"] = torch.ones(63)
    tensors["blocks.0.mlp.fc1.weight"][0, 0] = float("nan")
    torch.save(tensors, tmp_path / "w.pth")
    told = inspected(tmp_path / "w.pth")
    assert not told["fits"]
    assert told["missing"] == ["blocks.1.attn.qkv.bias"]
    assert told["unexpected"] == ["extra"]
    assert told["misshapen"] == ["norm.bias [63] instead of [64]"]
    assert told["not_finite"] == ["blocks.0.mlp.fc1.weight"]
    whole = build_vit(a).state_dict()
    nan = torch.full((64,), torch.nan)
    for name, tensor in (
        ("extra", torch.ones(2)),
        ("norm.bias", torch.ones(63)),
        ("norm.bias", nan),
    ):
        torch.save({**whole, name: tensor}, tmp_path / "w.pth")
        assert not inspected(tmp_path / "w.pth")["fits"]
    torch.save(whole, tmp_path / "w.pth")
    assert inspected(tmp_path / "w.pth")["fits"]


@pytest.mark.parametrize(
    ("names", "like"),
    [
        (["visual.conv1.weight", "text_model.a"], "CLIP"),
        (["decoder_blocks.0.a", "decoder_embed.weight"], "masked autoencoder"),
        (["mlp.0.weight", "last_layer.weight_v"], "DINO's head alone"),
        (["linear.weight", "linear.bias"], "a classifier alone"),
        (["model.layers.0.self_attn.q_proj.weight"], "a language model"),
        (["layer1.0.conv2.weight"], "a ResNet of basic blocks"),
        (["lstm.a"], None),
    ],
)
def test_inspect_tells_what_it_looks_like(
    tmp_path: Path, names: list[str], like: str | None
) -> None:
    torch.save({name: torch.ones(2) for name in names}, tmp_path / "w.pth")
    told = inspected(tmp_path / "w.pth")
    assert told["architecture"] is None
    assert not told["fits"]
    assert (like in told["looks_like"]) if like else told["looks_like"] is None


def test_inspect_refuses_what_is_no_weights(
    tmp_path: Path, photos: Path, tiny_weights: Path
) -> None:
    (tmp_path / "w.pth").write_bytes(b"hello")
    assert "is a text file" in sentence(inspect(tmp_path / "w.pth"))
    assert "no weights at" in sentence(inspect(tmp_path / "gone.pth"))
    features = tmp_path / "f.safetensors"
    dino("embed", photos, "-o", features, "--weights", tiny_weights, "--device", "cpu")
    assert "holds features of `dino embed`, not weights" in sentence(inspect(features))


@pytest.mark.slow
def test_inspect_needs_no_network_library(tmp_path: Path) -> None:
    """timm takes longer to import than everything else together."""
    a = VitArchitecture(width=64, depth=2, heads=1, patch_size=8, grid=(4, 4))
    torch.save(build_vit(a).state_dict(), tmp_path / "w.pth")
    code = (
        "import sys; from pathlib import Path;"
        "from dino_cli.store.weights.inspection import inspect_weights;"
        "assert inspect_weights(Path(sys.argv[1]), 'teacher')['fits'];"
        "assert 'timm' not in sys.modules and 'torchvision' not in sys.modules"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "w.pth")],
        check=False, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"layer_scale": True, "swiglu": True, "mlp_ratio": 512 / 64},
        {"registers": 4, "embed_class": False},
        {"registers": 2},
        {"conv_stem": True, "in_chans": 1, "grid": (3, 5)},
    ],
)
def test_shapes_told_without_building(changes: dict[str, Any]) -> None:
    from dino_cli.store.weights.shapes import vit_shapes

    a = replace(VitArchitecture(width=64, depth=2, heads=1, patch_size=8, grid=(4, 4)), **changes)
    wanted = {name: tuple(t.shape) for name, t in build_vit(a).state_dict().items()}
    assert vit_shapes(a) == wanted
