"""Files of weights: what is read, what it is taken for, and what is refused."""

import argparse
import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from weight_files import SMALL, assert_equal, read, tensors_of

from dino_cli.config.shared import Preprocessing
from dino_cli.core.network.architecture import VitArchitecture
from dino_cli.core.network.vit import build_vit
from dino_cli.errors import TaskError, UsageError


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
