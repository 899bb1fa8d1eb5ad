"""Checkpoints of other trainers: student and teacher flat, in chunks, under their prefixes."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from in_process import answer, dino, refusal
from PIL import Image
from torch import Tensor
from weight_files import SMALL, assert_equal, read, tensors_of

from dino_cli.errors import TaskError

SCALED = replace(SMALL, layer_scale=True, positions="size")
HEAD = {"mlp.0.weight": torch.ones(3, 64), "last_layer.weight_g": torch.ones(5, 1)}


def prefixed(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {prefix + name: tensor for name, tensor in tensors.items()}


def chunked(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """blocks.1. → blocks.1.1.: facebookresearch/dinov2 with a chunk for each block, and its mask
    token."""
    named = {}
    for name, tensor in tensors.items():
        parts = name.split(".")
        if parts[0] == "blocks":
            name = ".".join(["blocks", parts[1], *parts[1:]])
        named[name] = tensor
    return {**named, "mask_token": torch.zeros(1, 64)}


TEACHER, STUDENT = tensors_of(SCALED, 1), tensors_of(SCALED, 2)


def dinov2() -> dict[str, Any]:
    """As its FSDP checkpointer saves the whole model."""
    model = {"dino_loss.center": torch.zeros(1, 5), "ibot_patch_loss.center": torch.zeros(1, 1, 5)}
    for name, backbone in (("student", STUDENT), ("teacher", TEACHER)):
        model |= prefixed(f"{name}.backbone.", chunked(backbone))
        model |= prefixed(f"{name}.dino_head.", HEAD) | prefixed(f"{name}.ibot_head.", HEAD)
    return {"model": model, "iteration": 7}


def lightly(student: str = "student", teacher: str = "teacher", vit: str = "") -> dict[str, Any]:
    """As a Lightning module of its examples; vit: within its `MaskedVisionTransformerTIMM`."""
    state = {
        "criterion.center": torch.zeros(1, 1, 5),
        "dino_criterion.center.center": torch.ones(5),
    }
    for name, backbone in ((student, STUDENT), (teacher, TEACHER)):
        own = {**backbone, "head.weight": torch.ones(1000, 64), "head.bias": torch.ones(1000)}
        name = f"{name}_" if name else ""
        state |= prefixed(f"{name}backbone.{vit}", own if vit else backbone)
        state |= prefixed(f"{name}projection_head.layers.", {"0.weight": torch.ones(3, 64)})
        state |= {f"{name}backbone.mask_token": torch.zeros(1, 1, 64)} if vit else {}
    state["online_classifier.classification_head.weight"] = torch.ones(10, 64)
    return {"state_dict": state, "epoch": 3}


def solo_learn(student: str = "backbone", teacher: str = "momentum_backbone") -> dict[str, Any]:
    state = {"dino_loss_func.center": torch.zeros(1, 5), "classifier.weight": torch.ones(10, 64)}
    state |= prefixed(f"{student}.", STUDENT) | prefixed(f"{teacher}.", TEACHER)
    state |= prefixed("head.", HEAD) | prefixed("momentum_head.", HEAD)
    return {"state_dict": state | {"momentum_classifier.weight": torch.ones(10, 64)}}


def within(content: dict[str, Any], prefix: str) -> dict[str, Any]:
    return {"state_dict": prefixed(prefix, content["state_dict"])}


@pytest.mark.parametrize(
    "content",
    [
        dinov2(),
        lightly(),
        lightly(vit="vit."),
        lightly(student=""),
        lightly(teacher=""),
        within(lightly(), "model."),
        within(lightly(vit="vit."), "module.model."),
        solo_learn(),
        solo_learn("encoder", "momentum_encoder"),
        solo_learn("module.base_encoder", "module.momentum_encoder"),  # as MoCo v3's
    ],
)
def test_student_and_teacher_of_other_trainers(tmp_path: Path, content: dict[str, Any]) -> None:
    path = tmp_path / "last.ckpt"
    torch.save(content, path)
    assert_equal(read(path).tensors, TEACHER)
    assert_equal(read(path, checkpoint_key="student").tensors, STUDENT)
    assert read(path).architecture == SCALED
    told = answer("weights", "inspect", path)
    assert told["fits"]
    assert told["networks"] == ["student", "teacher"]


@pytest.mark.parametrize("prefix", ["model.backbone.", "module.backbone.", "backbone.vit."])
def test_one_network_of_another_trainer(tmp_path: Path, prefix: str) -> None:
    torch.save({"state_dict": prefixed(prefix, TEACHER)}, tmp_path / "w.ckpt")
    assert_equal(read(tmp_path / "w.ckpt").tensors, TEACHER)


def test_dinov2s_own_evaluation_checkpoint(tmp_path: Path) -> None:
    """teacher_checkpoint.pth of its training: one network, in chunks."""
    teacher = prefixed("backbone.", chunked(TEACHER)) | prefixed("dino_head.", HEAD)
    torch.save({"teacher": teacher}, tmp_path / "teacher_checkpoint.pth")
    assert_equal(read(tmp_path / "teacher_checkpoint.pth").tensors, TEACHER)


def test_what_is_not_known_to_lie_beside_them_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "w.ckpt"
    for extra in ("student_decoder.weight", "teacher_backbone.adapter.weight", "neck.0.weight"):
        content = lightly()
        content["state_dict"][extra] = torch.ones(2)
        torch.save(content, path)
        with pytest.raises(TaskError, match=r"1 tensor unexpected \(\w+[.\w]*\)"):
            read(path)
    content = lightly()
    del content["state_dict"]["teacher_backbone.norm.weight"]
    torch.save(content, path)
    with pytest.raises(TaskError, match=r"1 tensor missing \(norm\.weight\)"):
        read(path)
    chunks = chunked(TEACHER)
    chunks["blocks.0.1.norm1.bias"] = torch.ones(64)  # the block 1 of another chunk
    torch.save(chunks, path)
    with pytest.raises(TaskError, match=r"is missing"):
        read(path)


def test_only_one_of_the_two(tmp_path: Path) -> None:
    path = tmp_path / "student.ckpt"
    torch.save(prefixed("student_backbone.", STUDENT), path)
    said = refusal(1, "weights", "inspect", path)
    assert "it holds no teacher; use --checkpoint-key student" in said
    assert_equal(read(path, checkpoint_key="student").tensors, STUDENT)


@pytest.mark.parametrize("arch", ["test_convnext", "resnet18"])
def test_networks_of_timm_from_other_trainers(tmp_path: Path, arch: str) -> None:
    """Told apart by the names of the network that --arch names; resnet18 as lightly's examples
    have it, in an `nn.Sequential`."""
    net = timm.create_model(arch, num_classes=0)
    tensors = net.state_dict()
    if arch == "resnet18":
        tensors = torch.nn.Sequential(*list(net.children())[:-1]).state_dict()
    state = prefixed("teacher_backbone.", tensors) | prefixed("teacher_head.", HEAD)
    torch.save({"state_dict": state}, tmp_path / "last.ckpt")
    (tmp_path / "photos").mkdir()
    Image.new("RGB", (64, 64)).save(tmp_path / "photos" / "black.png")
    words = ["--arch", arch, "--device", "cpu", "-o", tmp_path / "f.npy"]
    dino("embed", tmp_path / "photos", "--weights", tmp_path / "last.ckpt", *words)
    assert np.load(tmp_path / "f.npy").shape == (1, net.head_hidden_size)
    loaded = read(tmp_path / "last.ckpt", arch=arch).tensors
    assert_equal(loaded, dict(net.state_dict()))
