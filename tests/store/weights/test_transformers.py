"""Random small networks of transformers' own classes, in each of their namings.

transformers is the oracle: what it computes with random weights, `dino` computes from its files.
"""

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor

from dino_cli.config.embed import EmbedConfig
from dino_cli.errors import TaskError
from dino_cli.progress import Reporter
from dino_cli.store.weights.load import load
from dino_cli.tasks.model import open_model

transformers = pytest.importorskip("transformers")
FEATURES, ATTENTION = 2e-5, 2e-6  # largest absolute difference

SIZES = {
    "heads": st.integers(1, 3),
    "head_width": st.sampled_from([16, 24, 64]),
    "depth": st.integers(1, 3),
    "patch": st.sampled_from([4, 7, 14, 16]),
    "grid": st.integers(2, 5),
    "registers": st.integers(1, 6),
    "gated": st.booleans(),
    "hidden": st.sampled_from([40, 64, 130]),
    "naming": st.sampled_from(["files", "bin", "sharded", "memory", "classifier"]),
}
FAMILIES = ["vit", "dinov2", "dinov2_with_registers", "dinov3_vit", "resnet"]


def network(family: str, s: dict[str, Any]) -> Any:
    """A randomly initialised model in eager attention, every tensor random."""
    width = s["heads"] * s["head_width"]
    ratio = 2 + s["hidden"] % 3
    common = {
        "hidden_size": width,
        "num_hidden_layers": s["depth"],
        "num_attention_heads": s["heads"],
        "patch_size": s["patch"],
        "image_size": s["patch"] * s["grid"],
        "attn_implementation": "eager",
    }
    if family == "vit":
        config = transformers.ViTConfig(**common, intermediate_size=s["hidden"])
        net = transformers.ViTModel(config, add_pooling_layer=False)
    elif family == "dinov2":
        config = transformers.Dinov2Config(**common, mlp_ratio=ratio, use_swiglu_ffn=s["gated"])
        net = transformers.Dinov2Model(config)
    elif family == "dinov2_with_registers":
        config = transformers.Dinov2WithRegistersConfig(
            **common, mlp_ratio=ratio, use_swiglu_ffn=s["gated"], num_register_tokens=s["registers"]
        )
        net = transformers.Dinov2WithRegistersModel(config)
    elif family == "dinov3_vit":
        config = transformers.DINOv3ViTConfig(
            **common,
            intermediate_size=s["hidden"] // 8 * 8,
            use_gated_mlp=s["gated"],
            hidden_act="silu" if s["gated"] else "gelu",
            num_register_tokens=s["registers"] - 1,
            rope_theta=float(10 * s["grid"]),
        )
        net = transformers.DINOv3ViTModel(config)
    else:
        config = transformers.ResNetConfig(
            embedding_size=64,
            hidden_sizes=[4 * s["heads"] * i for i in (4, 5, 6, 8)],
            depths=[s["depth"], 1, 2, 1],
        )
        net = transformers.ResNetModel(config)
    generator = torch.Generator().manual_seed(s["hidden"])
    for name, tensor in net.state_dict().items():
        if tensor.is_floating_point():
            noise = torch.randn(tensor.shape, generator=generator)
            small = (
                noise * (0.5 / max(tensor.shape[-1], 1)) ** 0.5 if tensor.ndim > 1 else noise / 4
            )
            scale = ("norm" in name and name.endswith("weight")) or name.endswith("lambda1")
            tensor.copy_(small.abs() + 0.5 if "running_var" in name else small + float(scale))
    return net.eval()


def write(net: Any, naming: str, folder: Path) -> None:
    """As people find it: files of `save_pretrained`, or what `torch.save` made in memory."""
    net.save_pretrained(folder, **({"max_shard_size": "30KB"} if naming == "sharded" else {}))
    if naming in ("files", "sharded"):
        return
    tensors = dict(net.state_dict())
    if naming == "bin":
        from safetensors.torch import load_file

        tensors = load_file(folder / "model.safetensors")
    for path in folder.glob("model*.safetensors*"):
        path.unlink()
    if naming == "classifier":
        prefix = {"vit": "vit.", "dinov2": "dinov2."}.get(net.config.model_type, "backbone.")
        tensors = {prefix + name: tensor for name, tensor in tensors.items()}
        # as wide as `Dinov2ForImageClassification` has it; two dimensions would mean supervision
        tensors["classifier.bias"] = torch.zeros(3)
    torch.save(tensors, folder / "pytorch_model.bin")


def images(net: Any, s: dict[str, Any]) -> Tensor:
    side = 64 if net.config.model_type == "resnet" else s["patch"] * s["grid"]
    return torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(1))


def smallest(**changes: Any) -> dict[str, Any]:
    return {
        "heads": 2, "head_width": 16, "depth": 2, "patch": 4, "grid": 3, "registers": 2,
        "gated": True, "hidden": 40, "naming": "files", **changes,
    }  # fmt: skip


@pytest.mark.parametrize("naming", ["files", "memory"])
@pytest.mark.parametrize("family", FAMILIES)
def test_one_of_each_class(family: str, naming: str, tmp_path: Path) -> None:
    compare(family, smallest(naming=naming), tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
@settings(
    max_examples=12,
    deadline=None,
    database=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)
@given(sizes=st.fixed_dictionaries(SIZES))
def test_dino_computes_what_transformers_computes(
    family: str, sizes: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> None:
    compare(family, sizes, tmp_path_factory.mktemp("hub"))


@torch.no_grad()
def compare(family: str, sizes: dict[str, Any], folder: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # transformers' own
        net = network(family, sizes)
        write(net, sizes["naming"], folder)
        x = images(net, sizes)
        wanted = net(x, output_attentions=family != "resnet")
    options = EmbedConfig(weights=folder, device="cpu", precision="fp32")
    backbone = open_model(options, Reporter()).backbone
    if family == "resnet":
        torch.testing.assert_close(
            backbone.features(x), wanted.pooler_output.flatten(1), rtol=0, atol=FEATURES
        )
        return
    tokens = backbone.net.forward_features(x)
    torch.testing.assert_close(tokens, wanted.last_hidden_state, rtol=0, atol=FEATURES)
    rows = wanted.attentions[-1][:, :, 0, backbone.prefix_tokens :]
    found = backbone.cls_attention(x).flatten(2)
    torch.testing.assert_close(found, rows, rtol=0, atol=ATTENTION)
    assert float(wanted.last_hidden_state.abs().max()) > 0.1


@pytest.mark.parametrize(
    ("family", "act"), [("vit", "relu"), ("dinov2", "gelu_new"), ("dinov3_vit", "relu")]
)
def test_another_activation_is_refused(tmp_path: Path, family: str, act: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        net = network(family, smallest(gated=False))
        net.config.hidden_act = act
        write(net, "files", tmp_path)
    with pytest.raises(TaskError, match=f"asks for the activation '{act}'"):
        load(model="", weights=tmp_path)


def test_a_single_file_without_a_config(tmp_path: Path) -> None:
    net = network("dinov2", smallest(heads=1, head_width=64))
    save_file(dict(net.state_dict()), tmp_path / "mine.safetensors")
    found = load(model="", weights=tmp_path / "mine.safetensors")
    assert found.tensors["blocks.0.mlp.fc2.weight"].shape[0] == 64
