"""`dino weights` of models by name through the command line, without a network."""

import hashlib
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from in_process import sentence
from typer.testing import CliRunner, Result

from dino_cli.cli.app import app
from dino_cli.config.embed import EmbedConfig
from dino_cli.config.shared import Preprocessing
from dino_cli.core.network.architecture import VitArchitecture
from dino_cli.core.network.vit import build_vit
from dino_cli.errors import TaskError
from dino_cli.progress import Reporter
from dino_cli.store.weights import registry
from dino_cli.store.weights.digests import record_path
from dino_cli.tasks.model import open_model


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["weights", *map(str, arguments)])


@pytest.fixture(autouse=True)
def torch_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of original files; huggingface_hub's is switched off for all tests."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    return tmp_path / "torch"


def put_original(torch_home: Path, name: str, content: bytes) -> Path:
    url = registry.entries()[name].url
    assert url is not None
    path = torch_home / "hub" / "checkpoints" / url.rsplit("/", 1)[1]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def test_list_has_the_published_figures() -> None:
    models = {m["name"]: m for m in json.loads(run("list", "--json").stdout)}
    # README of facebookresearch/dino, its two tables of pretrained models
    published = {
        "dino_vits16": (74.5, 77.0, 21),
        "dino_vits8": (78.3, 79.7, 21),
        "dino_vitb16": (76.1, 78.2, 85),
        "dino_vitb8": (77.4, 80.1, 85),
        "dino_resnet50": (67.5, 75.3, 23),
        "dino_xcit_small_12_p16": (76.0, 77.8, 26),
        "dino_xcit_small_12_p8": (77.1, 79.2, 26),
        "dino_xcit_medium_24_p16": (76.4, 78.8, 84),
        "dino_xcit_medium_24_p8": (77.9, 80.3, 84),
    }
    for name, (knn, linear, millions) in published.items():
        assert (models[name]["knn"], models[name]["linear"]) == (knn, linear)
        assert models[name]["parameters"] == pytest.approx(millions, abs=1)
        assert models[name]["licence"] == "Apache-2.0"
        assert models[name]["url"].startswith("https://dl.fbaipublicfiles.com/dino/")
    # README of facebookresearch/dinov2
    published_v2 = {
        "dinov2_vits14": (79.0, 81.1, 22),
        "dinov2_vits14_reg": (79.1, 80.9, 22),
        "dinov2_vitb14": (82.1, 84.5, 87),
        "dinov2_vitb14_reg": (82.0, 84.6, 87),
        "dinov2_vitl14": (83.5, 86.3, 304),
        "dinov2_vitl14_reg": (83.8, 86.7, 304),
        "dinov2_vitg14": (83.5, 86.5, 1136),
        "dinov2_vitg14_reg": (83.7, 87.1, 1136),
    }
    for name, (knn, linear, millions) in published_v2.items():
        assert (models[name]["knn"], models[name]["linear"]) == (knn, linear)
        assert models[name]["parameters"] == pytest.approx(millions, abs=1)
    shipped = {"dino_demo", "dino_small_imagenette"}
    others = {"dino_vits8_300ep", "dino_vits16_landmark", *shipped}
    v3 = {name for name in models if name.startswith("dinov3_")}
    assert {models[name]["licence"] for name in v3} == {"DINOv3"}
    assert {*models} == {*published, *published_v2, *v3, *others}
    rows = [line.split("\t") for line in run("list").stdout.splitlines()]
    assert rows[0][:2] == ["name", "architecture"]
    assert rows[1][:7] == [
        "dino_vits16",
        "vit_small, patch 16",
        "21.7",
        "74.5",
        "77.0",
        "Apache-2.0",
        "87",
    ]


@pytest.mark.slow
def test_parameters_of_the_registry_are_those_of_the_networks() -> None:
    from dino_cli.core.network.architecture import VIT_SIZES, TimmArchitecture
    from dino_cli.store.weights.empty import empty_network

    for entry in registry.entries().values():
        if entry.architecture is None:
            continue
        architecture: Any = TimmArchitecture(name=entry.architecture)
        if entry.architecture in VIT_SIZES:
            width, depth, heads = VIT_SIZES[entry.architecture]
            patch = entry.patch_size or 0
            architecture = VitArchitecture(
                width=width, depth=depth, heads=heads, patch_size=patch, grid=(224 // patch,) * 2
            )
        count = sum(p.numel() for p in empty_network(architecture).parameters())
        assert entry.parameters == pytest.approx(count / 1e6, abs=0.051), entry.name


def test_path_and_list_of_an_original_file(torch_home: Path) -> None:
    assert "is not on this disk" in sentence(run("path", "dino_vits8_300ep"))
    path = put_original(torch_home, "dino_vits8_300ep", b"x")
    assert run("path", "dino_vits8_300ep").stdout == f"{path}\n"
    models = {m["name"]: m for m in json.loads(run("list", "--json").stdout)}
    assert models["dino_vits8_300ep"]["path"] == str(path)
    shown = next(line for line in run("list").stdout.splitlines() if "300ep" in line)
    assert shown.endswith("yes")


def test_download_copies_what_is_cached(torch_home: Path, tmp_path: Path) -> None:
    put_original(torch_home, "dino_vitb8", b"first")
    put_original(torch_home, "dino_resnet50", b"second")
    to = tmp_path / "kept"
    result = run("download", "dino_vitb8", "dino_resnet50", "--to", to)
    assert result.exit_code == 0
    assert (to / "dino_vitb8.pth").read_bytes() == b"first"
    assert (to / "dino_resnet50.pth").read_bytes() == b"second"
    put_original(torch_home, "dino_vitb8", b"third")
    assert "already exists; use --overwrite" in sentence(run("download", "dino_vitb8", "--to", to))
    assert run("download", "dino_vitb8", "--to", to, "--overwrite").exit_code == 0
    assert (to / "dino_vitb8.pth").read_bytes() == b"third"
    missing = tmp_path / "no" / "kept"
    assert "does not exist" in sentence(run("download", "dino_vitb8", "--to", missing))
    assert "is a file" in sentence(run("download", "dino_vitb8", "--to", to / "dino_vitb8.pth"))


def test_what_was_downloaded_before_one_that_cannot_be_had_is_told(
    torch_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_original(torch_home, "dino_vitb8", b"first")
    put_original(torch_home, "dino_resnet50", b"second")
    monkeypatch.setattr("urllib.request.urlopen", lambda *_: pytest.fail("asked the network"))
    refused = "probing-vits/vit-dino-base16"
    to = tmp_path / "kept"
    good = {name: str(to / f"{name}.pth") for name in ("dino_vitb8", "dino_resnet50")}
    result = run("download", *good, refused, "dino_vits16", "dino_vits8", "--to", to)
    assert result.exit_code == 1
    assert result.stdout.splitlines() == [f"{name}\t{path}" for name, path in good.items()]
    (said,) = result.stderr.splitlines()
    assert "Keras" in said
    assert said.endswith(
        f"; dino_vitb8 and dino_resnet50 are kept in {str(to)!r};"
        " dino_vits16 and dino_vits8 were not tried"
    )
    assert sorted(path.read_bytes() for path in to.iterdir()) == [b"first", b"second"]
    again = run("download", *good, refused, "--to", to, "--overwrite", "--json")
    assert json.loads(again.stdout) == good
    cached = run("download", "dino_vitb8", refused)
    assert cached.stderr.endswith("; dino_vitb8 is kept in the cache\n")
    first = sentence(run("download", refused, "dino_vitb8", "--to", to))
    assert first.endswith("; dino_vitb8 was not tried\n")
    taken = run("download", "dino_vitb8", "dino_resnet50", "--to", to)
    assert "dino_vitb8.pth' already exists" in taken.stderr
    assert "kept" not in taken.stderr.replace(str(to), "")


def test_a_copy_that_breaks_off_leaves_what_was_there(
    torch_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def half(source: Path, target: Path) -> None:
        target.write_bytes(source.read_bytes()[:2])
        raise OSError(28, "No space left on device")

    put_original(torch_home, "dino_vitb8", b"first")
    to = tmp_path / "kept"
    assert run("download", "dino_vitb8", "--to", to).exit_code == 0
    put_original(torch_home, "dino_vitb8", b"second")
    monkeypatch.setattr(shutil, "copyfile", half)
    said = sentence(run("download", "dino_vitb8", "--to", to, "--overwrite"))
    assert f"cannot copy to '{to}/dino_vitb8.pth': No space left on device" in said
    assert [path.read_bytes() for path in to.iterdir()] == [b"first"]


def test_names_that_are_none() -> None:
    assert "no model named" in sentence(run("download"), code=2)
    assert "did you mean dino_vits16" in sentence(run("path", "dino_vit_s16"))
    said = sentence(run("path", "vit_small_patch14_dinov2.lvd"))
    assert "timm has vit_small_patch14_dinov2.lvd142m" in said
    refused = sentence(run("download", "probing-vits/vit-dino-base16"))
    assert "Keras" in refused
    assert "--model dino_vitb16" in refused
    assert "a/b/c" in sentence(run("path", "a/b/c"))


def test_a_named_model_must_be_what_the_registry_says(torch_home: Path, tmp_path: Path) -> None:
    small = VitArchitecture(width=64, depth=2, heads=1, patch_size=8, grid=(28, 28))
    torch.save(build_vit(small).state_dict(), tmp_path / "w.pth")
    put_original(torch_home, "dino_vits8_300ep", (tmp_path / "w.pth").read_bytes())
    options = EmbedConfig(model="dino_vits8_300ep", device="cpu", offline=True)
    with pytest.raises(TaskError, match=r"64 wide and 2 blocks deep, but vit_small is 384"):
        open_model(options, Reporter())
    torch.save(build_vit(replace(small, patch_size=16)).state_dict(), tmp_path / "w.pth")
    path = put_original(torch_home, "dino_vits8_300ep", (tmp_path / "w.pth").read_bytes())
    record_path(path).unlink()
    with pytest.raises(TaskError, match="its patch size is 16, not 8"):
        open_model(options, Reporter())
    with pytest.raises(TaskError, match="64 wide and 2 blocks deep, but vit_base is 768"):
        open_model(replace(options, patch_size=16, arch="vit_base"), Reporter())
    changed = put_original(torch_home, "dino_vits8_300ep", b"<html>moved</html>")
    with pytest.raises(
        TaskError, match=r"is not the file that was published .*dino weights remove"
    ):
        open_model(options, Reporter())
    changed.with_name(f"{changed.name}.sha256").unlink()
    with pytest.raises(TaskError, match="is a web page"):
        open_model(options, Reporter())


def test_shipped_weights_bring_their_own_sizes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "weights"
    folder.mkdir()
    listed = (registry.shipped_folder() / "registry.toml").read_text()
    pinned = re.search(r'sha256 = "\w{64}"', listed)
    assert pinned is not None
    (folder / "registry.toml").write_text(listed.replace(pinned[0], ""))
    monkeypatch.setattr(registry, "shipped_folder", lambda: folder)
    registry._registry.cache_clear()
    registry.entries.cache_clear()
    assert "ships with the package" in sentence(run("path", "dino_demo"))
    from safetensors.torch import save_file

    demo = VitArchitecture(width=128, depth=1, heads=2, patch_size=8, grid=(8, 8), conv_stem=True)
    net = build_vit(demo)
    save_file(
        {k: t.half() if t.is_floating_point() else t for k, t in net.state_dict().items()},
        folder / "dino_demo.safetensors",
    )
    model = open_model(EmbedConfig(model="dino_demo", device="cpu"), Reporter())
    assert model.weights.architecture == demo
    assert model.preprocessing == Preprocessing(resize=88, crop=88)
    assert model.weights.attention_size == 128
    assert model.identity["model"] == "dino_demo"
    assert model.identity["weights"] == "dino_demo.safetensors"
    assert run("path", "dino_demo").stdout == f"{folder / 'dino_demo.safetensors'}\n"
    monkeypatch.undo()
    registry._registry.cache_clear()
    registry.entries.cache_clear()


# verify and remove


def test_verify_finds_what_has_changed(torch_home: Path) -> None:
    path = put_original(torch_home, "dino_vitb8", b"weights")
    first = json.loads(run("verify", "dino_vitb8", "--json").stdout)
    digest = hashlib.sha256(b"weights").hexdigest()
    assert [(f["by"], f["ok"], f["sha256"]) for f in first] == [("new", True, digest)]
    again = json.loads(run("verify", "--json").stdout)
    assert {(f["name"], f["by"]) for f in again} >= {
        ("dino_vitb8", "recorded"),
        ("dino_demo", "pinned"),
        ("dino_small_imagenette", "pinned"),
    }
    path.write_bytes(b"weightz")
    said = sentence(run("verify", "dino_vitb8", "--quiet"))
    assert "1 of 1 files have changed" in said
    assert "dino weights remove dino_vitb8" in said
    assert "not on this disk" in sentence(run("verify", "dino_vits8_300ep", "--quiet"))


def test_remove_takes_all_that_is_there(torch_home: Path) -> None:
    path = put_original(torch_home, "dino_vitb8", b"weights")
    run("verify", "dino_vitb8")
    result = run("remove", "dino_vitb8", "--json")
    assert json.loads(result.stdout) == [{"name": "dino_vitb8", "path": str(path), "bytes": 7}]
    assert [p for p in torch_home.rglob("*") if p.is_file()] == []
    assert "not on this disk" in sentence(run("remove", "dino_vitb8"))
    assert "ships with the package" in sentence(run("remove", "dino_demo"))
    assert "no model named" in sentence(run("remove"), code=2)
