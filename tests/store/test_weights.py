"""Local weights: what is read, what it is taken for, and what is refused."""

import argparse
import hashlib
import json
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torchvision
from safetensors.torch import load_file, save_file
from torch import Tensor

from dino_cli.config.embed import EmbedConfig
from dino_cli.config.shared import Preprocessing
from dino_cli.core.backbone import TimmArchitecture, architecture_to_json
from dino_cli.core.vit import VitArchitecture, build_vit
from dino_cli.errors import TaskError, UsageError
from dino_cli.progress import Reporter
from dino_cli.store.runs.checkpoints import save_teacher
from dino_cli.store.runs.folder import RunFolder
from dino_cli.store.weights.load import Weights, load
from dino_cli.tasks.model import open_model

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


def full_checkpoint() -> tuple[dict[str, Any], dict[str, Tensor], dict[str, Tensor]]:
    """As the reference's `main_dino.py` saves it."""
    teacher, student = tensors_of(SMALL, 1), tensors_of(SMALL, 2)
    head = {"head.mlp.0.weight": torch.ones(3, 64), "head.last_layer.weight_g": torch.ones(5, 1)}
    content = {
        "student": {
            **{f"module.backbone.{k}": t for k, t in student.items()},
            **{f"module.{k}": t for k, t in head.items()},
        },
        "teacher": {**{f"backbone.{k}": t for k, t in teacher.items()}, **head},
        "optimizer": {"state": {0: {"exp_avg": torch.ones(3)}}, "param_groups": [{"lr": 0.1}]},
        "epoch": 100,
        "args": argparse.Namespace(arch="vit_small", patch_size=16, local_crops_scale=(0.05, 0.4)),
        "dino_loss": {"center": torch.zeros(1, 5)},
    }
    return content, teacher, student


# What is read


@pytest.mark.parametrize("zipped", [True, False])
def test_a_reference_backbone(tmp_path: Path, zipped: bool) -> None:
    wanted = tensors_of(SMALL)
    path = tmp_path / "dino_deitsmall16_pretrain.pth"
    torch.save(wanted, path, _use_new_zipfile_serialization=zipped)
    found = read(path)
    assert found.architecture == SMALL
    assert_equal(found.tensors, wanted)
    assert found.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert found.source == str(path)
    assert found.preprocessing == Preprocessing()
    assert found.attention_size == 480


def test_both_networks_of_a_full_checkpoint(tmp_path: Path) -> None:
    content, teacher, student = full_checkpoint()
    torch.save(content, tmp_path / "checkpoint.pth")
    assert_equal(read(tmp_path / "checkpoint.pth").tensors, teacher)
    assert_equal(read(tmp_path / "checkpoint.pth", checkpoint_key="student").tensors, student)
    del content["student"]
    torch.save(content, tmp_path / "checkpoint.pth")
    with pytest.raises(TaskError, match=r"holds no student; use --checkpoint-key teacher"):
        read(tmp_path / "checkpoint.pth", checkpoint_key="student")


def test_a_pickle_under_the_name_of_another_format(tmp_path: Path) -> None:
    torch.save(tensors_of(SMALL), tmp_path / "w.safetensors")
    assert_equal(read(tmp_path / "w.safetensors").tensors, tensors_of(SMALL))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_become_float32(tmp_path: Path, dtype: torch.dtype) -> None:
    wanted = {k: t.to(dtype) if t.is_floating_point() else t for k, t in tensors_of(SMALL).items()}
    save_file(wanted, tmp_path / "w.safetensors")
    found = read(tmp_path / "w.safetensors").tensors
    assert {t.dtype for t in found.values()} == {torch.float32}
    assert_equal(found, wanted)


@pytest.mark.parametrize("wrapper", ["model", "state_dict", "state_dict_ema"])
def test_wrapped_and_compiled_state_dicts(tmp_path: Path, wrapper: str) -> None:
    wanted = tensors_of(SMALL)
    inner = {f"module._orig_mod.{k}": t for k, t in wanted.items()}
    torch.save({wrapper: inner, "epoch": 3}, tmp_path / "w.pt")
    assert_equal(read(tmp_path / "w.pt").tensors, wanted)


@pytest.mark.parametrize(
    "changes",
    [
        {"patch_size": 8, "grid": (28, 28)},
        {"patch_size": 14, "grid": (37, 37), "layer_scale": True, "positions": "size"},
        {"width": 128, "heads": 2, "depth": 1, "mlp_ratio": 2.0},
        {"in_chans": 1},
        {"patch_size": 8, "grid": (8, 8), "conv_stem": True},
        {"registers": 4, "embed_class": False, "layer_scale": True, "positions": "timm"},
    ],
)
def test_the_architecture_is_read_off_the_tensors(tmp_path: Path, changes: dict[str, Any]) -> None:
    architecture = replace(SMALL, **changes)
    wanted = tensors_of(architecture)
    save_file(wanted, tmp_path / "w.safetensors")
    found = read(tmp_path / "w.safetensors")
    assert found.architecture == architecture
    assert_equal(found.tensors, wanted)
    assert found.preprocessing.crop is not None
    assert found.preprocessing.crop % architecture.patch_size == 0
    assert len(found.preprocessing.mean) == architecture.in_chans


def test_a_classifier_tells_that_it_is_not_dino(tmp_path: Path) -> None:
    save_file({**tensors_of(SMALL), "head.weight": torch.ones(10, 64)}, tmp_path / "w.safetensors")
    found = read(tmp_path / "w.safetensors").architecture
    assert isinstance(found, VitArchitecture)
    assert found.positions == "timm"


@pytest.mark.parametrize("registers", [0, 4])
def test_dinov2s_own_names_equal_timms_conversion(tmp_path: Path, registers: int) -> None:
    """timm's `checkpoint_filter_fn` is the oracle."""
    from timm.models.vision_transformer import checkpoint_filter_fn

    a = replace(SMALL, patch_size=14, grid=(5, 5), layer_scale=True, positions="size")
    meta = {**tensors_of(a), "mask_token": torch.zeros(1, 64)}
    if registers:
        meta["register_tokens"] = torch.randn(1, registers, 64)
        a = replace(a, registers=registers, embed_class=False, positions="timm")
    save_file(meta, tmp_path / "dinov2.safetensors")
    wanted = checkpoint_filter_fn(dict(meta), build_vit(a))
    found = read(tmp_path / "dinov2.safetensors")
    assert found.architecture == a
    assert_equal(found.tensors, {name: wanted[name] for name in found.tensors})


def test_the_heads_can_be_given(tmp_path: Path) -> None:
    save_file(tensors_of(SMALL), tmp_path / "w.safetensors")
    found = read(tmp_path / "w.safetensors", heads=4).architecture
    assert isinstance(found, VitArchitecture)
    assert found.heads == 4
    with pytest.raises(TaskError, match=r"width 64 cannot be shared by 7 heads; change --heads"):
        read(tmp_path / "w.safetensors", heads=7)
    save_file(tensors_of(replace(SMALL, width=48, heads=3)), tmp_path / "w.safetensors")
    with pytest.raises(TaskError, match="give it with --heads"):
        read(tmp_path / "w.safetensors")
    assert read(tmp_path / "w.safetensors", heads=3).architecture == replace(
        SMALL, width=48, heads=3
    )


def test_what_is_said_must_agree_with_the_tensors(tmp_path: Path) -> None:
    save_file(tensors_of(SMALL), tmp_path / "w.safetensors")
    assert read(tmp_path / "w.safetensors", patch_size=16).architecture == SMALL
    with pytest.raises(TaskError, match=r"patch size is 16, not 8; leave --patch-size out"):
        read(tmp_path / "w.safetensors", patch_size=8)
    with pytest.raises(TaskError, match=r"64 wide and 2 blocks deep, but vit_small is 384"):
        read(tmp_path / "w.safetensors", arch="vit_small")
    with pytest.raises(UsageError, match=r"timm has no architecture 'vit_smal'; did you mean"):
        read(tmp_path / "w.safetensors", arch="vit_smal")


# Runs of `dino train`


def make_run(folder: Path, a: VitArchitecture) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    teacher, student = tensors_of(a, 1), tensors_of(a, 2)
    about = {
        "architecture": architecture_to_json(a),
        "preprocessing": asdict(Preprocessing(resize=64, crop=64, mean=(0.5,) * 3)),
        "attention_size": 128,
    }
    folder.mkdir()
    run = RunFolder(folder)
    run.write_config({**about, "train": {"epochs": 1}})
    save_teacher(run.teacher, teacher, about)
    head = {"head.mlp.0.weight": torch.ones(3, 64)}
    state = {
        "format": 1,
        "teacher": {**{f"backbone.{k}": t for k, t in teacher.items()}, **head},
        "student": {**{f"backbone.{k}": t for k, t in student.items()}, **head},
    }
    torch.save(state, run.checkpoint)
    return teacher, student


def test_a_run_folder_and_its_files(tmp_path: Path) -> None:
    a = replace(SMALL, width=48, heads=3, grid=(4, 6), positions="dino")
    teacher, student = make_run(tmp_path / "run", a)
    bare = tmp_path / "elsewhere.safetensors"
    bare.write_bytes((tmp_path / "run" / "teacher.safetensors").read_bytes())
    for path in (tmp_path / "run", bare, tmp_path / "run" / "checkpoint.pt"):
        found = read(path)
        assert found.architecture == a  # neither the heads nor the grid is in the tensors
        assert found.preprocessing == Preprocessing(resize=64, crop=64, mean=(0.5,) * 3)
        assert found.attention_size == 128
        assert_equal(found.tensors, teacher)
    assert_equal(read(tmp_path / "run", checkpoint_key="student").tensors, student)
    assert read(tmp_path / "run", heads=3, patch_size=16).architecture == a
    for option in ({"heads": 4}, {"patch_size": 8}, {"arch": "vit_small"}):
        with pytest.raises(TaskError, match=r"of a `dino train` run .*; leave --"):
            read(tmp_path / "run", **option)
    (tmp_path / "run" / "teacher.safetensors").unlink()
    assert_equal(read(tmp_path / "run").tensors, teacher)
    (tmp_path / "run" / "checkpoint.pt").unlink()
    with pytest.raises(TaskError, match="has not saved any weights yet"):
        read(tmp_path / "run")


def test_a_run_with_a_damaged_description(tmp_path: Path) -> None:
    make_run(tmp_path / "run", SMALL)
    config = tmp_path / "run" / "config.json"
    values = json.loads(config.read_text())
    del values["architecture"]["depth"]
    config.write_text(json.dumps(values))
    with pytest.raises(TaskError, match="does not describe the weights"):
        read(tmp_path / "run")


# Other networks of timm and torchvision


def test_torchvisions_resnet50(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = torchvision.models.resnet50().eval()
    torch.save(net.state_dict(), tmp_path / "dino_resnet50_pretrain.pth")
    model = open_model(
        EmbedConfig(
            weights=tmp_path / "dino_resnet50_pretrain.pth", device="cpu", precision="fp32"
        ),
        Reporter(),
    )
    assert model.weights.architecture == TimmArchitecture(name="resnet50")
    net.fc = torch.nn.Identity()
    x = torch.randn(1, 3, 64, 96)
    with torch.inference_mode():
        torch.testing.assert_close(model.backbone.features(x), net(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "name", ["vit_tiny_patch16_224", "xcit_nano_12_p16_224", "test_convnext", "test_efficientnet"]
)
def test_any_timm_model_that_arch_names(tmp_path: Path, name: str) -> None:
    torch.manual_seed(0)
    net = timm.create_model(name, num_classes=7).eval()
    save_file(net.state_dict(), tmp_path / "w.safetensors")
    options = EmbedConfig(
        weights=tmp_path / "w.safetensors", arch=name, device="cpu", precision="fp32"
    )
    model = open_model(options, Reporter())
    x = torch.randn(1, 3, 224, 224)
    with torch.inference_mode():
        wanted = net.forward_head(net.forward_features(x), pre_logits=True)
        torch.testing.assert_close(model.backbone.features(x), wanted, rtol=1e-4, atol=1e-5)


def test_the_options_reach_timm(tmp_path: Path) -> None:
    net = timm.create_model("test_vit", num_classes=0, num_heads=4)
    save_file(net.state_dict(), tmp_path / "w.safetensors")
    found = read(tmp_path / "w.safetensors", arch="test_vit", heads=4).architecture
    assert isinstance(found, TimmArchitecture)
    assert found.arguments["num_heads"] == 4
    with pytest.raises(TaskError, match="timm cannot build this architecture"):
        read(tmp_path / "w.safetensors", arch="test_convnext", heads=4)


def test_a_timm_name_of_another_size(tmp_path: Path) -> None:
    save_file(tensors_of(SMALL), tmp_path / "w.safetensors")
    with pytest.raises(TaskError, match=r"\(64, 2, 16\), but those of vit_small_patch16_224 \(384"):
        read(tmp_path / "w.safetensors", arch="vit_small_patch16_224.dino")


def test_loaded_weights_outlive_their_file(tmp_path: Path) -> None:
    for path in (tmp_path / "w.safetensors", tmp_path / "w.pth"):
        wanted = tensors_of(SMALL)
        (save_file if path.suffix == ".safetensors" else torch.save)(wanted, path)
        found = read(path)
        with path.open("r+b") as file:
            file.write(bytes(path.stat().st_size))
        assert_equal(found.tensors, wanted)


def test_the_opened_network_holds_the_weights(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    save_file(tensors_of(SMALL), path)
    model = open_model(EmbedConfig(weights=path, device="cpu", precision="bf16"), Reporter())
    assert_equal(model.backbone.net.state_dict(), load_file(path))
    assert not any(p.requires_grad for p in model.backbone.net.parameters())
    assert model.identity == {
        "model": "vit_64x2_patch16",
        "weights": str(path),
        "weights_sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "precision": "bf16",
    }
    with model.autocast():
        assert torch.is_autocast_enabled("cpu")
    assert model.weights.tensors == {}


PEAK = """
import sys
from pathlib import Path
from dino_cli.store.weights.empty import filled_network
from dino_cli.store.weights.load import load
def status(key): return int(Path("/proc/self/status").read_text().split(key)[1].split()[0]) * 1024
for path in sys.argv[2:]:  # what is imported late, is so now
    weights = load(model="", weights=Path(path))
    net = filled_network(weights.architecture, weights.tensors)
before = status("VmRSS:")
weights = load(model="", weights=Path(sys.argv[1]))
net = filled_network(weights.architecture, weights.tensors)
print(status("VmHWM:") - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads Linux's /proc")
@pytest.mark.parametrize("layout", ["timm", "huggingface", "reference"])
def test_no_second_copy_in_memory(tmp_path: Path, layout: str) -> None:
    from dino_cli.store.export.files import write_huggingface

    a = replace(SMALL, width=768, heads=12, depth=12)  # ViT-B
    tensors = tensors_of(a)
    path = tmp_path / "w.safetensors"
    if layout == "timm":
        save_file(tensors, path)
    elif layout == "reference":
        path = tmp_path / "w.pth"
        torch.save(tensors, path)
    else:
        weights = Weights(
            architecture=a,
            tensors=tensors,
            name="",
            source="",
            sha256="",
            preprocessing=Preprocessing(),
            attention_size=480,
        )
        write_huggingface(weights, tmp_path, half=False)
        path = tmp_path / "model.safetensors"
    small = tmp_path / "small"
    torch.save(tensors_of(SMALL), small)
    command = [sys.executable, "-c", PEAK, str(path), str(small)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    assert int(done.stdout) < 1.3 * path.stat().st_size
