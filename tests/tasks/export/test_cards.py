"""`dino export`: the card beside a file, what is refused, and what is left behind."""

import hashlib
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from exported import (
    FEATURES,
    NETWORKS,
    VIT,
    close,
    exported,
    native,
    opened,
    randomised,
    run,
    sentence,
    stored,
)
from safetensors.torch import load_file, save_file

from dino_cli.config.embed import EmbedConfig
from dino_cli.core.network.architecture import TimmArchitecture
from dino_cli.core.network.backbone import build
from dino_cli.progress import Reporter
from dino_cli.tasks.model import open_model


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


def test_a_card_of_a_named_model_tells_nothing_of_a_run_that_one_is_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"train": {"epochs": 7}}))
    monkeypatch.chdir(tmp_path)
    assert run("dino_demo", "-o", "out.pth").exit_code == 0
    assert "epochs" not in Path("out.pth.md").read_text()


@pytest.mark.parametrize("name", ["a\"b'\nc", os.fsdecode(b"caf\xe9")])
@pytest.mark.parametrize("suffix", [".pth", pytest.param(".onnx", marks=pytest.mark.slow)])
def test_a_card_spells_any_name(tmp_path: Path, name: str, suffix: str) -> None:
    output = tmp_path / f"{name}{suffix}"
    assert run("dino_demo", "-o", output).exit_code == 0
    card = (tmp_path / f"{name}{suffix}.md").read_text(errors="surrogateescape")
    assert repr(output.name) in card


def test_a_run_is_not_replaced_by_an_export_of_it(tmp_path: Path) -> None:
    weights = stored(tmp_path, VIT)
    config = json.dumps({"train": {"epochs": 7}})
    (tmp_path / "config.json").write_text(config)
    result = run(weights, "-o", tmp_path, "--overwrite")
    assert "is a run of `dino train`" in sentence(result)
    assert (tmp_path / "config.json").read_text() == config
    assert {path.name for path in tmp_path.iterdir()} == {"config.json", weights.name}


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


def test_a_conv_stem_is_for_dino_and_onnx(tmp_path: Path) -> None:
    given = stored(tmp_path, replace(VIT, conv_stem=True))
    for output in ("out.pth", "out"):
        assert "convolutional stem" in sentence(run(given, "-o", tmp_path / output))
    assert [path.name for path in tmp_path.iterdir()] == ["given.safetensors"]
    output = tmp_path / "out.safetensors"
    assert run(given, "-o", output, "--half").exit_code == 0
    assert output.stat().st_size < 0.6 * given.stat().st_size
    card = output.with_name("out.safetensors.md").read_text()
    assert 'dino_cli.load_model(weights="out.safetensors")' in card
    x = native(VIT)
    close(opened(given).backbone.features(x), opened(output).backbone.features(x), 5e-3)


def test_outputs_are_never_overwritten_silently(tmp_path: Path) -> None:
    given, output = exported(tmp_path, VIT, "out.pth")
    before = output.read_bytes()
    assert "already exists" in sentence(run(given, "-o", output))
    assert run(given, "-o", output, "--overwrite").exit_code == 0
    assert output.read_bytes() == before
    given, folder = exported(tmp_path, VIT, "out")
    assert "already exists" in sentence(run(given, "-o", folder))
    assert "does not exist" in sentence(run(given, "-o", tmp_path / "no" / "out.pth"))


@pytest.mark.parametrize("name", ["out.pth", "out"])
def test_one_export_at_a_time(tmp_path: Path, name: str) -> None:
    given, output = stored(tmp_path, VIT), tmp_path / name
    code = (
        "import sys\nfrom pathlib import Path\n"
        "from dino_cli.store.writing.locks import lock_output\n"
        f"with lock_output(Path({str(output)!r})):\n    print(flush=True)\n    sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout is not None
        other.stdout.readline()
        assert "another dino is writing" in sentence(run(given, "-o", output))
        assert not output.exists()
        other.communicate()
    assert run(given, "-o", output).exit_code == 0


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
