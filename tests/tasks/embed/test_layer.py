"""`dino embed --layer`: features of an earlier block, and what is told of them afterwards."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from exported import stored
from feature_files import export_files
from in_process import dino, embed, refusal
from interruptions import interrupt_after
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torchvision import transforms
from torchvision.transforms import InterpolationMode

import dino_cli
from dino_cli.core.network.architecture import TimmArchitecture, VitArchitecture
from dino_cli.core.network.vit import build_vit
from dino_cli.store.embeddings.reading import open_export

DEPTH = 4
CPU = ["--device", "cpu", "--precision", "fp32", "--workers", 0, "--resize", 64, "--crop", 48, "-q"]


def write_network(path: Path) -> nn.Module:
    """One of four blocks, under the original's names."""
    torch.manual_seed(0)
    net = build_vit(VitArchitecture(width=64, depth=DEPTH, heads=1, patch_size=16, grid=(3, 3)))
    with torch.no_grad():
        for parameter in net.parameters():  # so that all blocks count
            nn.init.normal_(parameter, std=0.1)
    save_file(net.state_dict(), path)
    return net.eval()


@pytest.fixture
def deep(tmp_path: Path) -> list[object]:
    """Options of `dino embed` for that network."""
    write_network(tmp_path / "w.safetensors")
    return ["--weights", tmp_path / "w.safetensors", *CPU, "--batch-size", 1]


def pixels(path: Path, mean: Any = (0.485, 0.456, 0.406), std: Any = (0.229, 0.224, 0.225)) -> Any:
    """A picture as the original evaluates it, (1, 3, 48, 48)."""
    read = transforms.Compose(
        [
            transforms.Resize(64, interpolation=InterpolationMode.BICUBIC),
            transforms.CenterCrop(48),
            transforms.ToTensor(),
            transforms.Normalize(mean, std),
        ]
    )
    return read(Image.open(path).convert("RGB"))[None]


@torch.inference_mode()
def block_tokens(net: Any, x: Tensor, layer: int) -> Tensor:
    """By a hook on the block, and the network's own norm."""
    seen: list[Tensor] = []
    hook = net.blocks[layer].register_forward_hook(lambda _m, _a, out: seen.append(out))
    net(x)
    hook.remove()
    normed: Tensor = net.norm(seen[0])
    return normed


@pytest.mark.parametrize("layer", [0, 2, -2])
def test_features_are_those_of_the_block(
    photos: Path, tmp_path: Path, deep: list[object], layer: int
) -> None:
    net, out = write_network(tmp_path / "w.safetensors"), tmp_path / "f.npz"
    embed(photos, "-o", out, *deep, "--features", "cls,mean,last4,patch,keys", "--layer", layer)
    found = open_export(out)
    number = layer % DEPTH
    assert found.metadata["layer"] == number
    for row, path in enumerate(sorted(photos.glob("*/*.png"))):
        tokens = block_tokens(net, pixels(path), layer)[0]
        expected = {
            "cls": tokens[0],
            "mean": tokens[1:].mean(dim=0),
            "last4": torch.cat(
                [block_tokens(net, pixels(path), i)[0, 0] for i in range(number + 1)]
            ),
            "patch": tokens[1:].reshape(3, 3, 64),
        }
        for kind, values in expected.items():
            got = np.asarray(found.arrays[kind][row : row + 1], np.float32)[0]
            np.testing.assert_allclose(got, values, atol=4e-3 if kind == "patch" else 2e-5)
    assert found.arrays["keys"].shape == (12, 3, 3, 64)


def test_a_file_of_timms(photos: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    net: Any = timm.create_model("test_vit", num_classes=0).eval()
    save_file(net.state_dict(), tmp_path / "w.safetensors")
    model = ["--weights", tmp_path / "w.safetensors", "--arch", "test_vit", "--workers", 0]
    out = [photos, "-o", tmp_path / "f.npz", *model, "--device", "cpu", "--precision", "fp32"]
    embed(*out, "--layer", 3, "--batch-size", 5)
    read = timm.data.create_transform(**timm.data.resolve_model_data_config(net))
    found = open_export(tmp_path / "f.npz").features
    for row, path in enumerate(sorted(photos.glob("*/*.png"))):
        tokens = block_tokens(net, read(Image.open(path).convert("RGB"))[None], 3)
        np.testing.assert_allclose(found[row : row + 1], tokens[:, 0], atol=2e-4)


@pytest.mark.parametrize("family", ["ViT", "Dinov2WithRegisters", "DINOv3ViT"])
def test_a_hugging_face_folder(photos: Path, tmp_path: Path, family: str) -> None:
    """transformers' own hidden states are the oracle."""
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = getattr(transformers, f"{family}Config")(
        hidden_size=48, num_hidden_layers=3, num_attention_heads=2, intermediate_size=96,
        patch_size=16, image_size=48, num_register_tokens=2,
    )  # fmt: skip
    net = getattr(transformers, f"{family}Model")(config).eval()
    net.save_pretrained(tmp_path / "hf")
    embed(photos, "-o", tmp_path / "f.npz", "--weights", tmp_path / "hf", *CPU, "--layer", 1)
    facts = open_export(tmp_path / "f.npz").metadata["preprocessing"]
    norm = net.norm if family == "DINOv3ViT" else net.layernorm
    for row, path in enumerate(sorted(photos.glob("*/*.png"))):
        with torch.inference_mode():
            given = pixels(path, facts["mean"], facts["std"])
            states = net(given, output_hidden_states=True).hidden_states
            expected = norm(states[2])[:, 0]  # the first state is what enters block 0
        got = open_export(tmp_path / "f.npz").features[row : row + 1]
        np.testing.assert_allclose(got, expected, atol=2e-5)


BEIT = {"img_size": 48, "embed_dim": 48, "depth": 3, "num_heads": 3}
TIMM = {
    "beit": TimmArchitecture(name="beit_base_patch16_224", arguments=BEIT),
    "normed": TimmArchitecture(
        name="beitv2_base_patch16_224", arguments={**BEIT, "global_pool": "token"}
    ),
    "shared": TimmArchitecture(
        name="beit_base_patch16_224",
        arguments={**BEIT, "use_rel_pos_bias": False, "use_shared_rel_pos_bias": True},
    ),
    "xcit": TimmArchitecture(
        name="xcit_nano_12_p16_224", arguments={"embed_dim": 32, "depth": 2, "num_heads": 2}
    ),
}


@pytest.mark.parametrize(
    ("name", "layer", "number", "kinds"),
    [
        ("beit", 1, 1, "cls,mean,patch"),
        ("normed", -3, 0, "cls,mean,patch"),
        ("shared", 1, 1, "cls,mean"),
        ("xcit", 0, 0, "mean,patch"),
        ("xcit", -3, 1, "mean,patch"),
        ("xcit", 2, 2, "cls,mean,patch"),  # the first block of class attention
    ],
)
def test_networks_whose_attention_cannot_be_read(
    photos: Path, tmp_path: Path, name: str, layer: int, number: int, kinds: str
) -> None:
    """Against hooks on timm's own network, and its norm."""
    a = TIMM[name]
    net: Any = timm.create_model(a.name, num_classes=0, **a.arguments).eval()
    weights = stored(tmp_path, a)
    net.load_state_dict(load_file(weights))
    out = [photos, "-o", tmp_path / "f.npz", "--weights", weights, *CPU]
    embed(*out, "--features", kinds, "--layer", layer)
    found = open_export(tmp_path / "f.npz")
    assert found.metadata["layer"] == number
    class_tokens = int("cls" in kinds)
    seen: list[Tensor] = []
    blocks = [*net.blocks, *getattr(net, "cls_attn_blocks", ())]
    blocks[number].register_forward_hook(lambda _m, _a, out: seen.append(net.norm(out)[0]))
    for row, path in enumerate(sorted(photos.glob("*/*.png"))):
        with torch.inference_mode():
            net(pixels(path, mean=(0.4, 0.5, 0.6)))
        tokens = seen.pop()
        assert len(tokens) == 9 + class_tokens
        patches = tokens[class_tokens:]
        expected = {"cls": tokens[0], "mean": patches.mean(dim=0), "patch": patches}
        for kind in kinds.split(","):
            got = np.asarray(found.arrays[kind][row : row + 1], np.float32)[0]
            atol = (4e-3 if kind == "patch" else 1e-4) * float(patches.abs().max())
            values = expected[kind].reshape(got.shape)
            np.testing.assert_allclose(got, values, atol=atol)


def test_the_last_block_of_such_a_network_and_those_before_its_class_token(
    photos: Path, tmp_path: Path
) -> None:
    out = ["-o", tmp_path / "f.npy", "--weights", stored(tmp_path, TIMM["xcit"]), *CPU]
    for layer, kind in ((0, "cls"), (1, "cls+mean")):
        asked = ["--layer", layer, "--features", f"mean,{kind}"]
        text = refusal(2, "embed", photos, *out, *asked)
        assert f"its class token enters after block {layer}, which has none for features" in text
        assert f"'{kind}'; change --features" in text
    assert "has 4 blocks, 0 to 3" in refusal(2, "embed", photos, *out, "--layer", 4)
    assert not list(tmp_path.glob("f.*"))
    embed(photos, *out, "--layer", 3)
    last = np.load(tmp_path / "f.npy")
    assert "layer" not in json.loads((tmp_path / "f.json").read_text())
    embed(photos, *out, "--overwrite")
    np.testing.assert_array_equal(np.load(tmp_path / "f.npy"), last)


@pytest.mark.parametrize("suffix", ["npy", "npz", "safetensors", "parquet", "csv"])
def test_the_last_layer_is_never_told_and_another_is_in_every_format(
    photos: Path, tmp_path: Path, deep: list[object], suffix: str
) -> None:
    if suffix == "parquet":
        pytest.importorskip("pyarrow")
    plain = tmp_path / f"plain.{suffix}"
    embed(photos, "-o", plain, *deep)
    for name, layer in (("last", -1), ("third", 3)):
        embed(photos, "-o", tmp_path / f"{name}.{suffix}", *deep, "--layer", layer)
        assert export_files(tmp_path, f"{name}.") == export_files(tmp_path, "plain.")
    assert "layer" not in open_export(plain).metadata
    embed(photos, "-o", tmp_path / f"early.{suffix}", *deep, "--layer", -3)
    assert open_export(tmp_path / f"early.{suffix}").metadata["layer"] == 1


def test_an_export_goes_on_with_the_same_layer_only(
    photos: Path, tmp_path: Path, deep: list[object], monkeypatch: pytest.MonkeyPatch
) -> None:
    some, out = photos / "red", tmp_path / "f.npy"
    embed(some, "-o", out, *deep, "--layer", 1)
    for option, words in (
        ([], "was made with layer 1, not -1; give the same options as then"),
        (["--layer", 2], "was made with layer 1, not 2"),
    ):
        for go_on in ("--append", "--resume"):
            assert words in refusal(1, "embed", some, "-o", out, *deep, *option, go_on)
    grown = json.loads(embed(photos, "-o", out, *deep, "--layer", -3, "--append", "--json").stdout)
    assert (grown["count"], grown["embedded"]) == (12, 8)
    embed(photos / "red", photos / "blue", photos / "green", "-o", tmp_path / "whole.npy", *deep,
          "--layer", 1)  # fmt: skip
    np.testing.assert_array_equal(np.load(out), np.load(tmp_path / "whole.npy"))
    assert json.loads((tmp_path / "f.json").read_text())["layer"] == 1

    embed(some, "-o", tmp_path / "old.npy", *deep)  # as every export before there were layers
    old = refusal(1, "embed", photos, "-o", tmp_path / "old.npy", *deep, "--layer", 0, "--append")
    assert "was made with layer -1, not 0" in old
    embed(photos, "-o", tmp_path / "old.npy", *deep, "--layer", 3, "--append")

    cut = [photos, "-o", tmp_path / "cut.npy", *deep]
    with monkeypatch.context() as patch:
        interrupt_after(1, patch)
        embed(*cut, "--layer", 1, code=130)
    text = refusal(1, "embed", *cut, "--resume")
    assert "cut.npy.part' was made with layer 1, not -1; give the same options and files" in text
    assert "layer 1, not 0" in refusal(1, "embed", *cut, "--resume", "--layer", 0)
    embed(*cut, "--resume", "--layer", 1)
    embed(photos, "-o", tmp_path / "new.npy", *deep, "--layer", 1)
    assert export_files(tmp_path, "cut.") == export_files(tmp_path, "new.")


def test_neighbours_are_of_the_same_layer(photos: Path, tmp_path: Path, deep: list[object]) -> None:
    for name, layer in (("early", 0), ("same", -4), ("last", -1)):
        kinds = ["--features", "cls,mean"]
        embed(photos, "-o", tmp_path / f"{name}.npy", *deep, "--layer", layer, *kinds)
    index = ["--index", tmp_path / "early.npy"]
    words = "was made with layer 0, but"
    for more in ([tmp_path / "last.npy", *index], [*index, "--index", tmp_path / "last.npy"]):
        text = refusal(1, "knn", *more, "-k", 1)
        assert f"{words} '{tmp_path}/last.npy' with layer -1; embed both with the same" in text
    dino("knn", tmp_path / "same.npy", *index, "-k", 1)
    with pytest.raises(dino_cli.errors.TaskError, match=words):
        dino_cli.knn(tmp_path / "early.npy", tmp_path / "last.npy", k=1)
    for one in ("early", "early.mean"):
        out = ["--index", tmp_path / f"{one}.npy", "-o", tmp_path / "found.csv", "--overwrite"]
        dino("knn", photos, *out, "-k", 1, "--device", "cpu", "--precision", "fp32")
        with (tmp_path / "found.csv").open(newline="") as file:
            for row in csv.DictReader(file):  # each finds itself: queries are of the index's layer
                assert row["neighbor1"] == row["path"]
                assert float(row["similarity1"]) > 0.99999
    facts = json.loads((tmp_path / "early.json").read_text())
    (tmp_path / "early.json").write_text(json.dumps({**facts, "layer": 4}))
    text = refusal(2, "knn", photos, *index, "--device", "cpu", "--precision", "fp32")
    assert "layer 4 asked for, but" in text


def test_pages_and_maps_tell_the_layer(
    photos: Path, tmp_path: Path, deep: list[object], monkeypatch: pytest.MonkeyPatch
) -> None:
    embed(photos, "-o", tmp_path / "f.npy", *deep, "--layer", 1)
    index = ["--index", tmp_path / "f.npy"]
    dino("knn", *index, "--neighbors", 2, "-o", tmp_path / "hits.html")
    assert "<dd>cls, block 1</dd>" in (tmp_path / "hits.html").read_text()
    told: list[str] = []
    monkeypatch.setattr("dino_cli.tasks.map.run.draw", lambda *drawn: told.append(drawn[3]))
    dino("map", tmp_path / "f.npy", "-o", tmp_path / "map.png", "--project", "pca")
    assert "cls features of block 1" in told[0]


def test_layers_that_there_are_not(photos: Path, tmp_path: Path, deep: list[object]) -> None:
    out = [photos, "-o", tmp_path / "f.npy"]
    for layer in (4, -5):
        text = refusal(2, "embed", *out, *deep, "--layer", layer)
        assert f"layer {layer} asked for, but vit_64x4_patch16 has 4 blocks, 0 to 3; choose" in text
    convnet = tmp_path / "c.safetensors"
    save_file(timm.create_model("resnet18", num_classes=0).state_dict(), convnet)
    model = ["--weights", convnet, "--arch", "resnet18", *CPU]
    text = refusal(2, "embed", *out, *model, "--layer", 1)
    assert "resnet18 has no blocks of a vision transformer to choose among; leave out --l" in text
    assert not list(tmp_path.glob("f.*"))
    embed(*out, *model, "--layer", -1)
