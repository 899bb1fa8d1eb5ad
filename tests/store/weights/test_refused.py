"""Files that are no weights, or the wrong ones: one sentence each, and nothing of theirs runs."""

import argparse
import io
import json
import os
import pickle
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save, save_file
from torch import Tensor
from typer.testing import CliRunner

from dino_cli.cli.app import app
from dino_cli.core.network.architecture import VitArchitecture
from dino_cli.core.network.vit import build_vit
from dino_cli.errors import TaskError
from dino_cli.store.export.names import huggingface_names
from dino_cli.store.weights.load import Weights, load

SMALL = VitArchitecture(width=64, depth=2, heads=1, patch_size=16, grid=(14, 14))


def tensors_of(architecture: VitArchitecture) -> dict[str, Tensor]:
    torch.manual_seed(0)
    return build_vit(architecture).state_dict()


def read(path: Path) -> Weights:
    return load(model="", weights=path)


def assert_equal(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in wanted.items())


def test_strictness_names_the_tensors(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    wanted = tensors_of(SMALL)
    gone = [name for name in wanted if "blocks.1." in name and "norm" not in name]
    save_file({name: t for name, t in wanted.items() if name not in gone}, path)
    with pytest.raises(TaskError) as caught:
        read(path)
    assert f"{len(gone)} tensors missing ({', '.join(gone[:3])} and {len(gone) - 3} more)" in str(
        caught.value
    )
    save_file({**wanted, "blocks.1.extra": torch.ones(1)}, path)
    with pytest.raises(TaskError, match=r"1 tensor unexpected \(blocks\.1\.extra\)"):
        read(path)
    save_file({**wanted, "norm.bias": torch.ones(63)}, path)
    with pytest.raises(TaskError, match=r"1 tensor misshapen \(norm\.bias 63 instead of 64\)"):
        read(path)
    save_file({**wanted, "norm.bias": torch.ones(64, dtype=torch.int64)}, path)
    with pytest.raises(TaskError, match=r"'norm\.bias' is of type int64"):
        read(path)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_weights_that_are_not_finite(tmp_path: Path, value: float) -> None:
    tensors = tensors_of(SMALL)
    tensors["blocks.1.mlp.fc1.weight"][3, 5] = value
    save_file(tensors, tmp_path / "w.safetensors")
    with pytest.raises(TaskError, match=r"not finite \(blocks\.1\.mlp\.fc1\.weight\)"):
        read(tmp_path / "w.safetensors")


def test_large_but_finite_weights_pass(tmp_path: Path) -> None:
    tensors = tensors_of(SMALL)
    tensors["norm.weight"][:] = 3e38
    save_file(tensors, tmp_path / "w.safetensors")
    assert_equal(read(tmp_path / "w.safetensors").tensors, tensors)


class Evil:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("form", ["zip", "legacy", "plain"])
def test_pickled_code_never_runs(tmp_path: Path, form: str) -> None:
    path, trap = tmp_path / "evil.pth", tmp_path / "ran"
    content = {**tensors_of(SMALL), "evil": Evil(trap)}
    if form == "plain":
        path.write_bytes(pickle.dumps(content))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=form == "zip")
    with pytest.raises(TaskError) as caught:
        read(path)
    assert not trap.exists()
    if form != "plain":
        assert "running code" in str(caught.value)
        assert "mkdir" in str(caught.value)


def damaged(name: str) -> bytes:
    zipped = io.BytesIO()
    torch.save(tensors_of(SMALL), zipped)
    legacy = io.BytesIO()
    torch.save(tensors_of(SMALL), legacy, _use_new_zipfile_serialization=False)
    safe = save(tensors_of(SMALL))
    lfs = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 88\n"
    listed = io.BytesIO()
    torch.save([torch.ones(2)], listed)
    return {
        "empty": b"",
        "text": "Grüße, this is a README\n".encode() * 60,
        "json": b'{"weights": "elsewhere"}',
        "lfs": lfs,
        "web page": b"<!DOCTYPE html><html><body>Not found</body></html>",
        "keras": b"\x89HDF\r\n\x1a\n" + bytes(100),
        "garbage": bytes(range(256)) * 8,
        "zeros": bytes(2000),
        "cut zip": zipped.getvalue()[: len(zipped.getvalue()) // 2],
        "cut legacy": legacy.getvalue()[: len(legacy.getvalue()) // 2],
        "cut safetensors": safe[: len(safe) // 2],
        "broken header": safe[:8] + b"{" * 50 + safe[58:],
        "a list": listed.getvalue(),
        "pickle start": b"\x80\x02garbage",
        "zip start": b"PK\x03\x04garbage",
    }[name]


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        ("empty", "is empty"),
        ("text", "is a text file"),
        ("json", "is a text file"),
        ("lfs", "Git LFS pointer"),
        ("web page", "is a web page"),
        ("keras", "Keras"),
        ("garbage", "is not a file of weights"),
        ("zeros", "is not a file of weights"),
        ("cut zip", "is damaged"),
        ("cut legacy", "is damaged"),
        ("cut safetensors", "is a damaged .safetensors"),
        ("broken header", "is a damaged .safetensors"),
        ("a list", "holds a list"),
        ("pickle start", "is damaged"),
        ("zip start", "is damaged"),
    ],
)
def test_files_that_are_no_weights(tmp_path: Path, kind: str, says: str) -> None:
    path = tmp_path / "w.pth"
    path.write_bytes(damaged(kind))
    with pytest.raises(TaskError) as caught:
        read(path)
    sentence = str(caught.value)
    assert says in sentence
    assert "w.pth" in sentence
    assert caught.value.fix
    assert "\n" not in sentence
    assert len(sentence) < 400


def test_tensors_of_something_else(tmp_path: Path) -> None:
    torch.save({"lstm.weight": torch.ones(3), "lstm.bias": torch.ones(3)}, tmp_path / "w.pth")
    with pytest.raises(TaskError, match=r"\(lstm\.weight, lstm\.bias, …\) go by .* with --arch"):
        read(tmp_path / "w.pth")
    torch.save({"epoch": 3, "args": argparse.Namespace(a=1)}, tmp_path / "w.pth")
    with pytest.raises(TaskError, match=r"holds no tensors by name, only 'epoch', 'args'"):
        read(tmp_path / "w.pth")
    strange = {**tensors_of(SMALL), "pos_embed": torch.ones(1, 24, 64)}
    torch.save(strange, tmp_path / "w.pth")
    with pytest.raises(TaskError, match="24 entries, which is not a square grid"):
        read(tmp_path / "w.pth")
    torch.save({**strange, "pos_embed": torch.ones(197)}, tmp_path / "w.pth")
    with pytest.raises(TaskError, match="has the shape 197, where 3 dimensions belong"):
        read(tmp_path / "w.pth")


def test_folders_and_missing_paths(tmp_path: Path) -> None:
    with pytest.raises(TaskError, match=r"no weights at .*nothing\.pth'; check the path"):
        read(tmp_path / "nothing.pth")
    (tmp_path / "photo.jpg").write_bytes(b"x")
    with pytest.raises(TaskError, match="no weights in the folder"):
        read(tmp_path)
    save_file(tensors_of(SMALL), tmp_path / "a.safetensors")
    assert read(tmp_path).architecture == SMALL
    save_file(tensors_of(SMALL), tmp_path / "b.safetensors")
    with pytest.raises(TaskError, match=r"2 files of weights \(a\.safetensors, b\.safetensors"):
        read(tmp_path)


def test_shards(tmp_path: Path) -> None:
    wanted = tensors_of(SMALL)
    names = list(wanted)
    parts = {"model-1.safetensors": names[:9], "model-2.safetensors": names[9:]}
    for file, held in parts.items():
        save_file({name: wanted[name] for name in held}, tmp_path / file)
    index = {"weight_map": {name: file for file, held in parts.items() for name in held}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    assert_equal(read(tmp_path).tensors, wanted)
    index["weight_map"]["norm.bias"] = "../outside.safetensors"
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(TaskError, match="outside its folder"):
        read(tmp_path)


def test_a_person_gets_one_line_and_exit_code_1(tmp_path: Path) -> None:
    (tmp_path / "w.pth").write_bytes(b"hello, these are not weights")
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.png").write_bytes(b"")
    arguments = ["embed", tmp_path / "photos", "--weights", tmp_path / "w.pth"]
    result = CliRunner().invoke(app, [*map(str, arguments), "-o", str(tmp_path / "feats.npy")])
    assert result.exit_code == 1
    assert result.stdout == ""
    assert result.stderr.startswith("dino: error: ")
    assert result.stderr.count("\n") == 1
    assert "text file" in result.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["photos", "w.pth"]


def with_itself() -> dict[str, Any]:
    content: dict[str, Any] = {"epoch": 1}
    content["model"] = content
    return content


def huggingface(**changes: Tensor) -> dict[str, Tensor]:
    """changes: of the first block's key, by the last part of its name."""
    key = "encoder.layer.0.attention.attention.key."
    named = huggingface_names(SMALL, tensors_of(SMALL))
    return {**named, **{f"{key}{part}": tensor for part, tensor in changes.items()}}


def registers() -> dict[str, Tensor]:
    named = tensors_of(replace(SMALL, registers=4, layer_scale=True))
    return {**named, "register_tokens": named.pop("reg_token"), "cls_token": torch.ones(1, 1, 32)}


def odd_bias(bias: Tensor) -> dict[str, Tensor]:
    return {**tensors_of(SMALL), "norm.bias": bias}


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (with_itself(), "it holds no tensors by name, only 'epoch', 'model'"),
        (
            huggingface(weight=torch.ones(64, 32)),
            "unexpected (blocks.0.attn.q.weight, blocks.0.attn.k.weight",
        ),
        (
            huggingface(bias=torch.tensor(1.0)),
            "unexpected (blocks.0.attn.q.bias, blocks.0.attn.k.bias",
        ),
        (registers(), "the position embedding has 201 entries"),
        (odd_bias(torch.ones(64).to_sparse()), "the tensor 'norm.bias' has no plain values"),
        (odd_bias(torch.ones(64, device="meta")), "the tensor 'norm.bias' has no plain values"),
    ],
)
def test_tensors_that_do_not_go_together(tmp_path: Path, content: Any, says: str) -> None:
    torch.save(content, tmp_path / "w.pth")
    with pytest.raises(TaskError, match=re.escape(says)):
        read(tmp_path / "w.pth")
    result = CliRunner().invoke(app, ["weights", "inspect", str(tmp_path / "w.pth")])
    assert isinstance(result.exception, SystemExit | None)


def test_keys_of_several_kinds_beside_a_network(tmp_path: Path) -> None:
    torch.save({"model": tensors_of(SMALL), 0: [1], "epoch": 3}, tmp_path / "w.pth")
    words = ["weights", "inspect", str(tmp_path / "w.pth"), "--json"]
    told = json.loads(CliRunner().invoke(app, words).stdout)
    assert told["fits"]
    assert told["beside"] == ["0", "epoch", "model"]
