"""facebookresearch/dinov3's own files: the tensors of Hugging Face's golden one under its names."""

import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from golden_files import hf_golden_folder
from in_process import answer, dino, refusal
from safetensors.torch import load_file
from torch import Tensor
from weight_files import assert_equal, read

HUGGING_FACE = hf_golden_folder() / "dinov3"
NAMES = (
    (r"embeddings\.patch_embeddings\.", "patch_embed.proj."),
    (r"embeddings\.register_tokens", "storage_tokens"),
    (r"embeddings\.", ""),
    (r"^layer\.", "blocks."),
    (r"attention\.o_proj", "attn.proj"),
    (r"layer_scale([12])\.lambda1", r"ls\1.gamma"),
    (r"mlp\.up_proj", "mlp.fc1"),
    (r"mlp\.down_proj", "mlp.fc2"),
)


def periods_of(base: float, head_width: int) -> Tensor:
    """A loop over the paper's appendix: one period for each fourth of a head's width."""
    quarter = head_width // 4
    return torch.tensor([base ** (2 * i / (head_width / 2)) for i in range(quarter)])


def original(head_width: int = 64, *, base: float = 100.0) -> dict[str, Tensor]:
    """What `DinoVisionTransformer(mask_k_bias=True).state_dict()` holds."""
    given = load_file(HUGGING_FACE / "model.safetensors")
    named = {}
    for name, tensor in given.items():
        if "attention." in name and "o_proj" not in name:
            continue
        for pattern, replacement in NAMES:
            name = re.sub(pattern, replacement, name)
        named[name] = tensor
    for i in sorted({int(name.split(".")[1]) for name in given if name.startswith("layer.")}):
        part = {p: f"layer.{i}.attention.{p}_proj" for p in "qkv"}
        queries, values = given[part["q"] + ".bias"], given[part["v"] + ".bias"]
        garbage = torch.full_like(queries, 3.0)
        ones = torch.ones_like(queries)
        attention = f"blocks.{i}.attn.qkv"
        named[attention + ".weight"] = torch.cat([given[part[p] + ".weight"] for p in "qkv"])
        named[attention + ".bias"] = torch.cat([queries, garbage, values])
        named[attention + ".bias_mask"] = torch.cat([ones, 0 * ones, ones])
    width = len(named["norm.weight"])
    named["mask_token"] = torch.zeros(1, width)
    named["local_cls_norm.weight"] = named["local_cls_norm.bias"] = torch.ones(width)
    named["rope_embed.periods"] = periods_of(base, head_width)
    return named


def saved(path: Path, tensors: object) -> Path:
    torch.save(tensors, path)
    return path


@pytest.mark.parametrize("wrap", ["", "teacher.backbone."])
def test_the_network_is_that_of_hugging_faces_file(tmp_path: Path, wrap: str) -> None:
    tensors = {wrap + name: tensor for name, tensor in original().items()}
    found = read(saved(tmp_path / "dinov3.pth", tensors))
    wanted = read(HUGGING_FACE)
    assert found.architecture == wanted.architecture
    assert_equal(found.tensors, wanted.tensors)


@pytest.mark.parametrize("arch", [[], ["--arch", "vit_small_patch16_dinov3"]])
def test_features_are_those_of_hugging_faces_file(tmp_path: Path, arch: list[str]) -> None:
    features = tmp_path / "f.npy"
    words = ["embed", HUGGING_FACE.parent / "photo.png", "--resize", 256, "--crop", 224]
    words += ["-o", features, "--overwrite", "--weights"]
    theirs, ours = (
        [dino(*words, *path).stdout, np.load(features)]
        for path in ([HUGGING_FACE], [saved(tmp_path / "dinov3.pth", original()), *arch])
    )
    assert np.array_equal(ours[1], theirs[1])
    assert ours[0].count("\n") == theirs[0].count("\n")  # nothing of timm's


def test_it_is_told_what_it_is(tmp_path: Path) -> None:
    told = answer("weights", "inspect", saved(tmp_path / "dinov3.pth", original()))
    assert told["layout"] == "facebookresearch/dinov3"
    assert told["fits"]
    assert told["heads_known"]
    assert told["architecture"] == answer("weights", "inspect", HUGGING_FACE)["architecture"]


@pytest.mark.parametrize(("head_width", "base"), [(64, 100.0), (32, 100.0), (32, 10000.0)])
def test_heads_and_the_base_of_positions_are_read_off_the_periods(
    tmp_path: Path, head_width: int, base: float
) -> None:
    tensors = original(head_width, base=base)
    arguments = read(saved(tmp_path / "w.pth", tensors)).architecture.arguments  # type: ignore[union-attr]
    assert arguments["num_heads"] == 64 // head_width
    assert math.isclose(arguments["rope_temperature"], base, rel_tol=1e-5)
    tensors["rope_embed.periods"] = tensors["rope_embed.periods"].bfloat16()
    rounded = read(saved(tmp_path / "w.pth", tensors)).architecture.arguments  # type: ignore[union-attr]
    assert math.isclose(rounded["rope_temperature"], base, rel_tol=0.02)
    if base == 100:
        assert rounded["rope_temperature"] == base


def test_gated_blocks(tmp_path: Path) -> None:
    tensors = original()
    parts = {"w1": "fc1_g", "w2": "fc1_x", "w3": "fc2"}
    wanted = {}
    for i, (theirs, ours) in enumerate(parts.items()):
        shape = (64, 176) if theirs == "w3" else (176, 64)
        for kind, size in (("weight", shape), ("bias", shape[:1])):
            wanted[f"blocks.0.mlp.{ours}.{kind}"] = torch.full(size, float(i))
            tensors[f"blocks.0.mlp.{theirs}.{kind}"] = torch.full(size, float(i))
    for kind in ("weight", "bias"):
        del tensors[f"blocks.0.mlp.fc1.{kind}"], tensors[f"blocks.0.mlp.fc2.{kind}"]
    found = read(saved(tmp_path / "w.pth", tensors))
    assert found.architecture.arguments["swiglu_mlp"]  # type: ignore[union-attr]
    assert_equal({name: found.tensors[name] for name in wanted}, wanted)


def test_what_would_give_other_features_is_refused(tmp_path: Path) -> None:
    def said(tensors: dict[str, Tensor]) -> str:
        path = saved(tmp_path / "w.pth", tensors)
        return refusal(1, "embed", HUGGING_FACE.parent / "photo.png", "--weights", path)

    unmasked = original()
    del unmasked["blocks.0.attn.qkv.bias_mask"]
    assert "the bias of its keys ('blocks.0.attn.qkv.bias') is not 0" in said(unmasked)
    unmasked["blocks.0.attn.qkv.bias"][64:128] = 0
    read(saved(tmp_path / "w.pth", unmasked))  # nothing to mask

    other = original()
    other["rope_embed.periods"] = torch.linspace(1, 100, 16)
    assert "its rotary positions are not powers of one base" in said(other)
    other["rope_embed.periods"] = torch.ones(0)
    assert "its rotary positions are not powers of one base" in said(other)

    untied = original()
    untied |= {"cls_norm.weight": torch.ones(64), "cls_norm.bias": torch.ones(64)}
    assert "cls_norm" in said(untied)
