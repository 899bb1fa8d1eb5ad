"""`dino export`: each layout is opened by its own reader, and computes what `dino` computes."""

import hashlib
import json
import re
import warnings
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from typer.testing import CliRunner, Result

from dino_cli.cli.app import app
from dino_cli.config.embed import EmbedConfig
from dino_cli.config.shared import Preprocessing
from dino_cli.core.backbone import Architecture, TimmArchitecture, architecture_to_json, build
from dino_cli.core.vit import VitArchitecture
from dino_cli.progress import Reporter
from dino_cli.store.weights.load import load
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


# The original


class Block(nn.Module):
    """A pre-norm transformer block, under the names that the original's state dict has."""

    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = (nn.LayerNorm(width, eps=1e-6) for _ in range(2))
        self.attn = nn.ModuleDict(
            {"qkv": nn.Linear(width, 3 * width), "proj": nn.Linear(width, width)}
        )
        self.mlp = nn.ModuleDict({"fc1": nn.Linear(width, hidden), "fc2": nn.Linear(hidden, width)})

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (
            part.unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for part in self.attn["qkv"](self.norm1(x)).chunk(3, dim=-1)
        )
        mixed = ((q @ k.mT) * q.shape[-1] ** -0.5).softmax(-1) @ v
        x = x + self.attn["proj"](mixed.transpose(1, 2).flatten(2))
        return x + self.mlp["fc2"](F.gelu(self.mlp["fc1"](self.norm2(x))))


class Original(nn.Module):
    """What the original's vision transformer computes at its own size."""

    def __init__(self, a: VitArchitecture) -> None:
        super().__init__()
        self.cls_token = nn.Parameter(torch.zeros(1, 1, a.width))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + a.grid[0] * a.grid[1], a.width))
        self.patch_embed = nn.ModuleDict(
            {"proj": nn.Conv2d(3, a.width, a.patch_size, a.patch_size)}
        )
        hidden = int(a.width * a.mlp_ratio)
        self.blocks = nn.Sequential(*(Block(a.width, a.heads, hidden) for _ in range(a.depth)))
        self.norm = nn.LayerNorm(a.width, eps=1e-6)

    def forward(self, images: Tensor) -> Tensor:
        x = self.patch_embed["proj"](images).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], dim=1) + self.pos_embed
        return self.norm(self.blocks(x))[:, 0]


@torch.no_grad()
@pytest.mark.parametrize("half", [False, True])
def test_the_originals_names_load_strictly(tmp_path: Path, half: bool) -> None:
    given, output = exported(tmp_path, VIT, "out.pth", *(["--half"] if half else []))
    tensors = torch.load(output, weights_only=True)
    assert {t.dtype for t in tensors.values()} == {torch.float16 if half else torch.float32}
    reader = Original(VIT)
    reader.load_state_dict(tensors, strict=True)
    x = native(VIT)
    close(opened(given).backbone.features(x), reader(x), 5e-3 if half else FEATURES)
    if half:
        assert output.stat().st_size < 0.6 * given.stat().st_size


@torch.no_grad()
def test_the_originals_resnet_and_xcit(tmp_path: Path) -> None:
    import torchvision

    given, output = exported(tmp_path, TimmArchitecture(name="resnet50"), "out.pth")
    reader = torchvision.models.resnet50()
    reader.fc = nn.Identity()
    reader.load_state_dict(torch.load(output, weights_only=True), strict=True)
    x = native(RESNET)
    close(opened(given).backbone.features(x), reader.eval()(x), FEATURES)
    output.unlink()
    given, output = exported(tmp_path, XCIT, "out.pth", "--overwrite")
    names = torch.load(output, weights_only=True)
    assert "pos_embeder.token_projection.weight" in names
    assert names["cls_attn_blocks.0.attn.qkv.weight"].shape == (96, 32)
    from timm.models.xcit import checkpoint_filter_fn

    again = checkpoint_filter_fn(dict(names), build(XCIT))
    assert again.keys() == randomised(XCIT).keys()
    assert all(torch.equal(again[name], t) for name, t in randomised(XCIT).items())


# timm


@torch.no_grad()
@pytest.mark.parametrize("name", NETWORKS)
def test_timm_opens_its_file_with_the_cards_lines(tmp_path: Path, name: str) -> None:
    a = NETWORKS[name]
    given, output = exported(tmp_path, a, "out.safetensors")
    reader = code_of(tmp_path / "out.safetensors.md", tmp_path)["model"]
    x = native(a)
    features = reader.forward_head(reader.forward_features(x), pre_logits=True)
    close(features, opened(given).backbone.features(x), FEATURES)
    # and `dino` itself finds all of it again
    again = load(model="", weights=output)
    first = load(model="", weights=given)
    assert again.architecture == first.architecture == a
    assert again.preprocessing == first.preprocessing
    assert again.attention_size == 128
    assert all(torch.equal(t, first.tensors[name]) for name, t in again.tensors.items())


# Hugging Face


@torch.no_grad()
@pytest.mark.parametrize("name", [name for name in NETWORKS if name != "xcit"])
def test_transformers_opens_the_folder_with_the_cards_lines(tmp_path: Path, name: str) -> None:
    pytest.importorskip("transformers")
    a = NETWORKS[name]
    given, output = exported(tmp_path, a, "out")
    assert {path.name for path in output.iterdir()} == {
        "config.json", "preprocessor_config.json", "model.safetensors", "README.md",
    }  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # transformers' own
        names = code_of(output / "README.md", tmp_path)
        _, told = type(names["model"]).from_pretrained(
            output,
            output_loading_info=True,
            **({"add_pooling_layer": False} if name == "vit" else {}),
        )
    assert not any(told[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    x = native(a)
    found = names["model"](x)
    wanted = opened(given)
    if name == "resnet":
        close(found.pooler_output.flatten(1), wanted.backbone.features(x), FEATURES)
    else:
        close(found.last_hidden_state[:, 0], wanted.backbone.features(x), FEATURES)
        tokens = wanted.backbone.net.forward_features(x)
        close(found.last_hidden_state, tokens, FEATURES)
    # `dino` reads the folder as the same network
    again = opened(output)
    close(again.backbone.features(x), wanted.backbone.features(x), FEATURES)
    assert again.preprocessing == wanted.preprocessing


def test_transformers_prepares_images_as_the_file_says(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    from dino_cli.data.decode import read_image
    from dino_cli.data.preprocess import build_transform, normalize

    given, output = exported(tmp_path, VIT, "out")
    noise = np.random.default_rng(0).normal(size=(9, 12, 3)) * 60 + 120
    small = Image.fromarray(noise.clip(0, 255).astype(np.uint8))
    small.resize((120, 90), Image.Resampling.BICUBIC).save(tmp_path / "photo.png")
    p = opened(given).preprocessing
    pixels = torch.from_numpy(build_transform(p)(read_image(tmp_path / "photo.png")))
    ours = normalize(pixels.permute(2, 0, 1)[None], p, torch.device("cpu"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        processor = transformers.AutoImageProcessor.from_pretrained(output)
        theirs = processor(Image.open(tmp_path / "photo.png"), return_tensors="pt")
    assert theirs["pixel_values"].shape == ours.shape
    # a rounding of one grey level is 0.017 to 0.018 here
    assert float((theirs["pixel_values"] - ours).abs().max()) < 0.04


# ONNX


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "half"),
    [("vit", False), ("vit", True), ("giant", False), ("registers", False), ("dinov3", False),
     ("resnet", False), ("grey", False)],
)  # fmt: skip
def test_onnxruntime_computes_the_same_at_any_size(tmp_path: Path, name: str, half: bool) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    a = NETWORKS.get(name) or replace(VIT, in_chans=1, conv_stem=True, grid=(5, 7))
    transformer = name != "resnet"
    options = ["--features", "cls+mean", "--attention"] if transformer else []
    given, output = exported(tmp_path, a, "out.onnx", *options, *(["--half"] if half else []))
    session = onnxruntime.InferenceSession(str(output), providers=["CPUExecutionProvider"])
    backbone = opened(given).backbone
    patch, channels = backbone.patch_size, a.in_chans
    for count, (h, w) in enumerate([(6, 6), (5, 9), (11, 4)], 1):
        x = torch.randn(count, channels, patch * h, patch * w)
        found = [torch.from_numpy(values) for values in session.run(None, {"images": x.numpy()})]
        wanted = backbone.features(x, "cls+mean" if transformer else "cls")
        close(found[0], wanted, 2e-2 if half else ONNX)
        if transformer:
            assert found[1].shape == (count, backbone.heads, h, w)
            rows = backbone.cls_attention(x)
            assert float((found[1] - rows).abs().max()) < (1e-2 if half else 1e-5)
    if half:
        assert output.stat().st_size < 0.75 * given.stat().st_size
    told = session.get_modelmeta().custom_metadata_map
    assert told["patch_size"] == str(patch)
    assert json.loads(told["preprocessing"])["crop_size"] == {"height": 64, "width": 64}
    assert "Checked" in (tmp_path / "out.onnx.md").read_text()


# What is refused, and what is left behind


def test_a_card_says_where_it_is_from(tmp_path: Path) -> None:
    result = run("dino_demo", "-o", tmp_path / "demo.pth", "--json")
    told = json.loads(result.stdout)
    card = (tmp_path / "demo.pth.md").read_text()
    digest = hashlib.sha256((tmp_path / "demo.pth").read_bytes()).hexdigest()
    assert told["card"] == str(tmp_path / "demo.pth.md")
    assert told["sha256"] == digest
    assert digest in card
    for part in ("# dino_demo", "Apache-2.0", "dino_demo.safetensors", "resize short side to 88"):
        assert part in card
    assert str(tmp_path) not in card


def test_a_card_of_a_run_tells_its_settings(tmp_path: Path) -> None:
    given = stored(tmp_path, VIT)
    (tmp_path / "config.json").write_text(json.dumps({"train": {"epochs": 7, "data": ["/secret"]}}))
    assert run(given, "-o", tmp_path / "out.pth").exit_code == 0
    card = (tmp_path / "out.pth.md").read_text()
    assert "epochs 7" in card
    assert "/secret" not in card


@pytest.mark.parametrize(
    ("name", "output", "says"),
    [
        ("dinov2", "out.pth", "no place for layer scales"),
        ("registers", "out.pth", "no place for"),
        ("dinov3", "out.pth", "no place for the network"),
        ("xcit", "out", "no class for the network 'xcit_nano_12_p16_224'"),
    ],
)
def test_layouts_that_have_no_place(tmp_path: Path, name: str, output: str, says: str) -> None:
    given = stored(tmp_path, NETWORKS[name])
    assert says in sentence(run(given, "-o", tmp_path / output))
    assert [path.name for path in tmp_path.iterdir()] == ["given.safetensors"]


def test_a_conv_stem_is_for_onnx_only(tmp_path: Path) -> None:
    given = stored(tmp_path, replace(VIT, conv_stem=True))
    for output in ("out.pth", "out", "out.safetensors"):
        assert "convolutional stem" in sentence(run(given, "-o", tmp_path / output))
    assert [path.name for path in tmp_path.iterdir()] == ["given.safetensors"]


def test_outputs_are_never_overwritten_silently(tmp_path: Path) -> None:
    given, output = exported(tmp_path, VIT, "out.pth")
    before = output.read_bytes()
    assert "exists already" in sentence(run(given, "-o", output))
    assert run(given, "-o", output, "--overwrite").exit_code == 0
    assert output.read_bytes() == before
    given, folder = exported(tmp_path, VIT, "out")
    assert "exists already" in sentence(run(given, "-o", folder))
    assert "does not exist" in sentence(run(given, "-o", tmp_path / "no" / "out.pth"))


def test_misuse(tmp_path: Path) -> None:
    given = stored(tmp_path, VIT)
    assert "no suffix of a layout" in sentence(run(given, "-o", tmp_path / "out.keras"), 2)
    assert "--attention is for .onnx" in sentence(
        run(given, "-o", tmp_path / "out.pth", "--attention"), 2
    )
    assert "--features cls+mean is for .onnx" in sentence(
        run(given, "-o", tmp_path / "out", "--features", "cls+mean"), 2
    )
    assert "name one source" in sentence(
        run(given, "--weights", given, "-o", tmp_path / "out.pth"), 2
    )
    assert "no weights at" in sentence(run(tmp_path / "gone.pth", "-o", tmp_path / "out.pth"))
    huge = load_file(given)
    huge["norm.weight"][0] = 1e6
    save_file(huge, tmp_path / "huge.safetensors")
    for output in ("out.pth", "out"):
        said = sentence(
            run(tmp_path / "huge.safetensors", "--heads", 3, "-o", tmp_path / output, "--half")
        )
        assert "'norm.weight'" in said.replace("layernorm", "norm")
        assert "beyond the range of half precision" in said
    assert sorted(p.name for p in tmp_path.iterdir()) == ["given.safetensors", "huge.safetensors"]


def test_onnx_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "onnx", None)
    said = sentence(run(stored(tmp_path, VIT), "-o", tmp_path / "out.onnx"))
    assert "pip install 'dino-cli[onnx]'" in said


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["dino_xcit_small_12_p16", "dino_xcit_small_12_p8", "dino_resnet50"]
)
def test_the_originals_files_of_other_networks_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """A file under the original's names in the cache: read by name, exported, the same bytes."""
    from dino_cli.store.export.names import reference_names
    from dino_cli.store.weights.registry import entries

    entry = entries()[name]
    assert entry.architecture
    assert entry.url
    a = TimmArchitecture(name=entry.architecture)
    tensors = randomised(a)
    original = reference_names(a, tensors)
    assert (original.keys() != tensors.keys()) == ("xcit" in name)
    cache = tmp_path / "torch" / "hub" / "checkpoints"
    cache.mkdir(parents=True)
    torch.save(original, cache / entry.url.rsplit("/", 1)[1])
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    options = EmbedConfig(model=name, offline=True, device="cpu", precision="fp32")
    backbone = open_model(options, Reporter()).backbone
    net = build(a).eval()
    net.load_state_dict(tensors)
    x = torch.randn(1, 3, 96, 128)
    with torch.no_grad():
        wanted = net.forward_head(net.forward_features(x), pre_logits=True)
    close(backbone.features(x), wanted, FEATURES)
    assert run(name, "--offline", "-o", tmp_path / "out.pth").exit_code == 0
    again = torch.load(tmp_path / "out.pth", weights_only=True)
    assert again.keys() == original.keys()
    assert all(torch.equal(again[key], tensor) for key, tensor in original.items())
