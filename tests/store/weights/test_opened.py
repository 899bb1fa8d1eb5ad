"""Weights as a network: of our runs, of timm and torchvision; and what opening them costs."""

import hashlib
import json
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import timm
import torch
import torchvision
from exported import RESNET
from safetensors.torch import load_file, save_file
from torch import Tensor
from weight_files import SMALL, assert_equal, read, tensors_of

from dino_cli.config.embed import EmbedConfig
from dino_cli.config.shared import Preprocessing
from dino_cli.core.network.architecture import (
    TimmArchitecture,
    VitArchitecture,
    architecture_to_json,
)
from dino_cli.core.network.backbone import build
from dino_cli.errors import TaskError
from dino_cli.progress import Reporter
from dino_cli.store.runs.checkpoints import save_teacher
from dino_cli.store.runs.folder import RunFolder
from dino_cli.store.weights.load import Weights
from dino_cli.tasks.model import open_model


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


def test_a_resnet_from_before_batches_were_counted(tmp_path: Path) -> None:
    state = build(RESNET).state_dict()
    old = {name: t for name, t in state.items() if not name.endswith("num_batches_tracked")}
    torch.save(old, tmp_path / "w.pth")
    found = read(tmp_path / "w.pth")
    assert found.architecture == RESNET
    assert_equal(found.tensors, state)


def test_weights_stay_when_their_file_changes(tmp_path: Path) -> None:
    """A full checkpoint is mapped, so that the half that is not asked for is never read."""
    tensors, path = tensors_of(SMALL), tmp_path / "full.pth"
    torch.save({"teacher": tensors, "student": tensors, "epoch": 3}, path)
    found = read(path)
    with path.open("r+b") as file:
        file.write(bytes(path.stat().st_size))
    assert_equal(found.tensors, tensors)


@pytest.mark.parametrize(
    "name",
    [
        "vit_tiny_patch16_224", "xcit_nano_12_p16_224", "test_convnext", "test_efficientnet",
        # no patch sizes; three channels made to 48 first; a second head
        pytest.param("hiera_tiny_224", marks=pytest.mark.slow),
        pytest.param("tresnet_m", marks=pytest.mark.slow),
        pytest.param("levit_128s", marks=pytest.mark.slow),
    ],
)  # fmt: skip
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
