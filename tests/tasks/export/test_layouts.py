"""`dino export`: each layout is opened by its own reader, and computes what `dino` computes."""

import json
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from exported import (
    FEATURES,
    NETWORKS,
    ONNX,
    RESNET,
    VIT,
    XCIT,
    close,
    code_of,
    exported,
    native,
    opened,
    randomised,
    stored,
)
from PIL import Image
from torch import Tensor, nn
from typer.testing import CliRunner, Result

from dino_cli.cli.app import app
from dino_cli.config.shared import Preprocessing
from dino_cli.core.network.architecture import TimmArchitecture, VitArchitecture
from dino_cli.core.network.backbone import build
from dino_cli.core.network.features import Extractor, Kind
from dino_cli.store.export.huggingface import preprocessor_config
from dino_cli.store.weights.load import load


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [*map(str, arguments)])


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


def test_what_the_originals_layout_cannot_say_is_told(tmp_path: Path) -> None:
    """Heads that are not 64 wide, and other sizes of images."""
    photo = tmp_path / "photo.png"
    Image.new("RGB", (90, 70), (200, 60, 30)).save(photo)
    output = tmp_path / "demo.pth"
    result = run("export", "dino_demo", "-o", output)
    assert result.exit_code == 0, result.output
    told = result.stdout.splitlines()[-1]
    assert told.startswith(f"for dino: --weights {output} --heads 4")
    options = told.split(str(output))[1].split()
    assert " ".join(options) in (tmp_path / "demo.pth.md").read_text()
    for name, model in (("a", ["--model", "dino_demo"]), ("b", ["--weights", output, *options])):
        done = run("embed", photo, *model, "--precision", "fp32", "-o", tmp_path / f"{name}.npy")
        assert done.exit_code == 0, done.output
    ours, theirs = np.load(tmp_path / "a.npy"), np.load(tmp_path / "b.npy")
    np.testing.assert_allclose(ours, theirs, atol=1e-6)
    assert "(as if 64 wide: --heads)" in run("weights", "inspect", output).stdout


@pytest.mark.slow
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


@pytest.mark.slow
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


def test_transformers_is_told_heights_and_widths_by_name(tmp_path: Path) -> None:
    _, output = exported(tmp_path, replace(VIT, in_chans=1, grid=(5, 7)), "out", "--half")
    config = json.loads((output / "config.json").read_text())
    assert config["image_size"] == [40, 56]  # height and width there
    assert (config["num_channels"], config["torch_dtype"]) == (1, "float16")
    for p in (
        Preprocessing(resize=(30, 50), crop=None), Preprocessing(resize=40, crop=(30, 50)),
    ):  # fmt: skip
        told = preprocessor_config(p)
        assert told["size"] == {"height": 30, "width": 50}
        assert (told["do_convert_rgb"], told["do_center_crop"]) == (True, False)
    assert not preprocessor_config(Preprocessing(mean=(0.5,), std=(0.2,)))["do_convert_rgb"]


def test_transformers_prepares_images_as_the_file_says(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    from dino_cli.data.decoding.decode import read_image
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
    ("name", "half", "kind"),
    [("vit", False, "cls+mean"), ("vit", True, "cls+mean"), ("vit", False, "patch"),
     ("giant", False, "cls+mean"), ("registers", False, "cls+mean"), ("registers", True, "patch"),
     ("dinov3", False, "cls+mean"), ("dinov3", False, "patch"), ("resnet", False, "cls"),
     ("grey", False, "cls+mean")],
)  # fmt: skip
def test_onnxruntime_computes_the_same_at_any_size(
    tmp_path: Path, name: str, half: bool, kind: Kind
) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    a = NETWORKS.get(name) or replace(VIT, in_chans=1, conv_stem=True, grid=(5, 7))
    transformer = name != "resnet"
    options = ["--features", kind, "--attention"] if transformer else []
    given, output = exported(tmp_path, a, "out.onnx", *options, *(["--half"] if half else []))
    session = onnxruntime.InferenceSession(str(output), providers=["CPUExecutionProvider"])
    backbone = opened(given).backbone
    patch, channels = backbone.patch_size, a.in_chans
    for count, (h, w) in enumerate([(6, 6), (5, 9), (11, 4)], 1):
        x = torch.randn(count, channels, patch * h, patch * w)
        found = [torch.from_numpy(values) for values in session.run(None, {"images": x.numpy()})]
        if kind == "patch":  # not of the extractor, which rounds grids to half precision
            wanted = backbone.patch_tokens(x).unflatten(1, (h, w))
        else:
            wanted = Extractor(backbone, [kind])(x)[kind]
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


def test_an_export_does_not_replace_what_it_is_made_of(tmp_path: Path) -> None:
    weights = stored(tmp_path, VIT)
    before = weights.read_bytes()
    for given in ([weights], ["--weights", weights]):
        done = run("export", *given, "-o", weights, "--half", "--overwrite")
        assert done.exit_code == 1
        assert "is read, and would be replaced" in done.stderr
        assert weights.read_bytes() == before
