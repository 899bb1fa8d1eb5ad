"""Published layouts against numbers that transformers itself computed (DINO_GOLDEN_HF_DIR)."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from golden_files import hf_golden_folder
from safetensors.torch import load_file, save_file
from torch import Tensor
from typer.testing import CliRunner

from dino_cli.cli.app import app
from dino_cli.config.embed import EmbedConfig
from dino_cli.errors import TaskError
from dino_cli.progress import Reporter
from dino_cli.store.weights.load import load
from dino_cli.tasks.model import Model, open_model

GOLDEN = hf_golden_folder()
LAYOUTS = sorted(path.parent.name for path in GOLDEN.glob("*/expected.safetensors"))
FEATURES, ATTENTION = 2e-5, 2e-6  # largest absolute difference

pytestmark = pytest.mark.golden


def opened(path: Path) -> Model:
    return open_model(EmbedConfig(weights=path, device="cpu", precision="fp32"), Reporter())


def inputs(expected: dict[str, Tensor]) -> dict[str, Tensor]:
    """The input of every size there are outputs for."""
    small = expected["input_native_small"]
    found = {}
    for key in expected:
        size = key.split(".")[0]
        if "x" not in size or size in found:
            continue
        h, w = (int(side) for side in size.split("x"))
        given = expected["input"]
        found[size] = (
            given
            if given.shape[-2:] == (h, w)
            else F.interpolate(small, size=(h, w), mode="bilinear", align_corners=False)
        )
    return found


def differences(model: Model, expected: dict[str, Tensor]) -> dict[str, float]:
    """Largest difference of each output, in units of what is allowed."""
    backbone, result = model.backbone, {}
    for size, x in inputs(expected).items():
        # DINO v1 interpolates positions in its own way, which Hugging Face's port does not.
        own = f"{size}.dino_interp" if f"{size}.dino_interp.cls" in expected else size
        if f"{size}.pooled" in expected:
            ours = {f"{size}.pooled": backbone.features(x)}
        else:
            ours = {
                f"{own}.cls": backbone.features(x),
                f"{own}.cls_attention": backbone.cls_attention(x)[0],
            }
        if own == size:
            tokens = backbone.net.forward_features(x)
            ours[f"{size}.last_hidden_state"] = tokens.detach()
        for key, value in ours.items():
            allowed = ATTENTION if "attention" in key else FEATURES
            assert value.shape == expected[key].shape, key
            result[key] = float((value - expected[key]).abs().max()) / allowed
    return result


@pytest.mark.parametrize("layout", LAYOUTS)
def test_outputs_equal_those_of_transformers(layout: str) -> None:
    expected = load_file(GOLDEN / layout / "expected.safetensors")
    found = differences(opened(GOLDEN / layout), expected)
    assert len(found) >= 4
    assert max(found.values()) < 1, found


@pytest.mark.parametrize("layout", [name for name in LAYOUTS if name != "vit"])
def test_a_photo_through_the_command_as_through_transformers(layout: str, tmp_path: Path) -> None:
    """The reference's preprocessing included; not ViT, whose positions transformers resamples in
    another way than DINO."""
    expected = load_file(GOLDEN / layout / "expected.safetensors")
    out = tmp_path / "feats.npy"
    command = ["embed", GOLDEN / "photo.png", "--weights", GOLDEN / layout, "-o", out]
    command += ["--resize", 256, "--crop", 224, "--device", "cpu", "--precision", "fp32"]
    result = CliRunner().invoke(app, [*map(str, command), "--no-exif"])
    assert result.exit_code == 0, result.output
    key = "photo224.pooled" if layout == "resnet" else "photo224.cls"
    assert np.abs(np.load(out) - expected[key].numpy()).max() < FEATURES


@pytest.mark.parametrize("layout", LAYOUTS)
def test_any_tensor_changed_by_a_thousandth_is_noticed(layout: str) -> None:
    expected = load_file(GOLDEN / layout / "expected.safetensors")
    h, w = expected["input"].shape[-2:]
    small = {k: t for k, t in expected.items() if k.startswith((f"{h}x{w}.", "input"))}
    model = opened(GOLDEN / layout)
    for name, tensor in model.backbone.net.state_dict().items():
        if tensor.is_floating_point():
            original = tensor.clone()
            tensor.mul_(1.001)
            noticed = (max(differences(model, e).values()) > 1 for e in (small, expected))
            assert any(noticed), name
            tensor.copy_(original)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_half_precision_files_and_other_names_of_the_same_tensors(
    layout: str, tmp_path: Path
) -> None:
    folder = GOLDEN / layout
    wanted = load(model="", weights=folder).tensors
    tensors = load_file(folder / "model.safetensors")
    shutil.copy(folder / "config.json", tmp_path)
    variants = {"half": {name: t.half() for name, t in tensors.items() if t.is_floating_point()}}
    kind = json.loads((folder / "config.json").read_text())["model_type"]
    outer = {"vit": "vit.", "dinov2": "dinov2."}.get(kind, "module.")
    variants["classifier"] = {outer + name: t for name, t in tensors.items()}
    variants["classifier"]["classifier.weight"] = torch.zeros(3, 5)
    variants["classifier"]["classifier.bias"] = torch.zeros(3)
    variants["memory"] = {in_memory(name, kind): t for name, t in tensors.items()}
    for variant, renamed in variants.items():
        torch.save(renamed, tmp_path / "pytorch_model.bin")
        found = load(model="", weights=tmp_path).tensors
        assert found.keys() == wanted.keys(), variant
        for name, tensor in found.items():
            close = 1e-2 if variant == "half" else 0
            torch.testing.assert_close(tensor, wanted[name], rtol=close, atol=close, msg=name)


def in_memory(name: str, kind: str) -> str:
    """The names inside transformers 5, where they differ from its files."""
    if kind == "dinov3_vit":
        return "model." + name if name.startswith("layer.") else name
    for part in ("query", "key", "value"):
        name = name.replace(f"attention.attention.{part}", f"attention.{part[0]}_proj")
    name = name.replace("attention.output.dense", "attention.o_proj")
    if kind == "vit":
        name = name.replace("encoder.layer.", "layers.")
        name = name.replace("intermediate.dense", "mlp.fc1").replace("output.dense", "mlp.fc2")
    return name


def test_a_bin_file_equals_the_safetensors() -> None:
    for folder in (GOLDEN / layout for layout in LAYOUTS):
        if (folder / "pytorch_model.bin").exists():
            a = load(model="", weights=folder / "pytorch_model.bin")
            b = load(model="", weights=folder)
            assert a.architecture == b.architecture
            assert all(torch.equal(t, b.tensors[name]) for name, t in a.tensors.items())


def test_a_missing_projection_is_named(tmp_path: Path) -> None:
    folder = next(GOLDEN / layout for layout in LAYOUTS if layout != "resnet")
    tensors = load_file(folder / "model.safetensors")
    gone = next(name for name in tensors if ("value" in name or "v_proj" in name) and "0." in name)
    del tensors[gone]
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(TaskError, match=r"1 tensor missing \(blocks\.0\.attn\.qkv\."):
        load(model="", weights=tmp_path)
