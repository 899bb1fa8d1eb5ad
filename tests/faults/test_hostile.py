"""Files made to run code, to take all memory, or to lead elsewhere: refused, in one sentence."""

import io
import json
import os
import pickle
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save, save_file
from small_vit import photo, write_small_vit
from typer.testing import CliRunner

from dino_cli.cli.app import app
from dino_cli.core.network.architecture import VitArchitecture
from dino_cli.core.network.vit import build_vit
from dino_cli.errors import TaskError
from dino_cli.store.classifier import read_classifier
from dino_cli.store.embeddings.reading import read_embeddings
from dino_cli.store.runs.checkpoints import find_checkpoint, load_checkpoint
from dino_cli.store.runs.folder import RunFolder
from dino_cli.store.runs.watched import read_attention
from dino_cli.store.weights.load import load

TINY = VitArchitecture(width=64, depth=1, heads=1, patch_size=16, grid=(4, 4))


def tensors() -> dict[str, Any]:
    torch.manual_seed(0)
    return dict(build_vit(TINY).state_dict())


class Canary:
    """Makes a folder wherever it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


@pytest.fixture
def ran(tmp_path):
    """A place that must stay empty."""
    path = tmp_path / "ran"
    yield path
    assert not path.exists(), "code of a file was run"


def object_array(canary: Canary) -> np.ndarray:
    array = np.empty(2, dtype=object)
    array[:] = [canary, canary]
    return array


def told(call, *arguments, **options) -> str:
    with pytest.raises(TaskError) as caught:
        call(*arguments, **options)
    sentence = str(caught.value)
    assert "\n" not in sentence
    assert len(sentence) < 600
    return sentence


@pytest.mark.parametrize("name", ["w.pth", "w.bin", "w.safetensors", "checkpoint.pt", "x.ckpt"])
@pytest.mark.parametrize("zipped", [True, False])
def test_weights_with_code_in_them(tmp_path, ran, name, zipped):
    content = {"state_dict": {**tensors(), "x": Canary(ran)}, "args": Canary(ran)}
    torch.save(content, tmp_path / name, _use_new_zipfile_serialization=zipped)
    told(load, model="", weights=tmp_path / name)
    told(read_classifier, tmp_path / name)
    for words in (["inspect"], ["inspect", "--json"]):
        result = CliRunner().invoke(app, ["weights", *words, str(tmp_path / name)])
        assert result.exit_code in (1, 2), result.output
        assert isinstance(result.exception, SystemExit)


def test_checkpoints_with_code_in_them(tmp_path, ran):
    folder = RunFolder(tmp_path)
    content = {"format": 1, "step": 3, "student": Canary(ran)}
    torch.save(content, folder.checkpoint)
    torch.save(content, tmp_path / "checkpoint.1.pt")
    (tmp_path / "checkpoint-0001.pt").write_bytes(pickle.dumps(content))
    told(load_checkpoint, folder.checkpoint)
    said: list[str] = []
    told(find_checkpoint, folder, said.append)
    assert len(said) == 3


@pytest.mark.parametrize("suffix", [".npy", ".npz"])
def test_features_with_code_in_them(tmp_path, ran, suffix):
    path = tmp_path / f"feats{suffix}"
    if suffix == ".npy":
        np.save(path, object_array(Canary(ran)), allow_pickle=True)
        path.with_suffix(".csv").write_text("path,label\na,b\nc,d\n")
        path.with_suffix(".json").write_text('{"format": 1, "features": "cls"}')
    else:
        facts = {"format": 1, "arrays": {"cls": {"shape": [2], "dtype": "<f4"}}}
        trap = object_array(Canary(ran))
        np.savez(path, cls=trap, paths=trap, labels=trap, metadata=json.dumps(facts))
    told(read_embeddings, path)


def test_an_attention_archive_with_code_in_it_is_left_out(tmp_path, ran):
    np.savez(tmp_path / "attention-00001.npz", attention=object_array(Canary(ran)))
    assert read_attention(tmp_path) == {}


def test_an_interrupted_export_with_code_in_it_is_made_again(tmp_path, ran):
    from dino_cli.store.embeddings.blocks import Blocks

    blocks = Blocks(tmp_path / "f.npy")
    blocks.start({"a": 1}, size=1, files=2)
    trap = object_array(Canary(ran))
    np.savez(blocks.folder / "00000000.npz", facts=trap, **{"features/cls": trap})
    again = Blocks(tmp_path / "f.npy")
    assert again.open({"a": 1}) == 1
    assert again.done() == []


def test_no_path_of_an_interrupted_export_leads_elsewhere(tmp_path):
    """`ready.json` names old files to remove: only such beside the output are."""
    from dino_cli.store.embeddings.blocks import Blocks

    mine = tmp_path / "mine.txt"
    mine.write_text("kept")
    (tmp_path / "out").mkdir()
    blocks = Blocks(tmp_path / "out" / "f.npy")
    blocks.start({"a": 1}, size=1, files=2)
    names = [str(mine), "../mine.txt", "..", ".", "", 3, None]
    (blocks.folder / "ready.json").write_text(json.dumps(names))
    assert Blocks(tmp_path / "out" / "f.npy").recover()
    assert mine.read_text() == "kept"


# What takes all memory


def bounded(*words: object) -> tuple[int, str]:
    """Exit code and stderr of `dino …` with little more memory than torch itself needs."""
    code = (
        "import resource, sys, torch\n"
        "pages = int(open('/proc/self/statm').read().split()[0])\n"
        "limit = pages * resource.getpagesize() + (1 << 30)\n"
        "resource.setrlimit(resource.RLIMIT_AS, (limit, limit))\n"
        "from dino_cli.cli.app import app\n"
        "app(sys.argv[1:], prog_name='dino')\n"
    )
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, words)],
        env=environment, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    return done.returncode, done.stderr


def header(**tensors: Any) -> bytes:
    text = json.dumps(tensors).encode()
    return len(text).to_bytes(8, "little") + text


def claims() -> dict[str, bytes]:
    """Small files that claim to be huge."""
    wide = {"dtype": "F32", "shape": [2**30, 2**30], "data_offsets": [0, 2**62]}
    overflow = {"dtype": "F32", "shape": [2**62, 4], "data_offsets": [0, 0]}
    one = save({"w": torch.ones(4)})
    doubled = b'{"w":{"dtype":"F32","shape":[4],"data_offsets":[0,16]},'
    doubled += b'"w":{"dtype":"F32","shape":[4],"data_offsets":[0,16]}}'
    strided = io.BytesIO()
    torch.save({"patch_embed.proj.weight": torch.ones(1).expand(2**20, 2**20)}, strided)
    bomb = io.BytesIO()
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", bytes(100_000_000))
        archive.writestr("archive/version", "3")
    return {
        "wide.safetensors": header(w=wide) + bytes(64),
        "overflow.safetensors": header(w=overflow),
        "long.safetensors": (2**60).to_bytes(8, "little") + one[8:],
        "twice.safetensors": len(doubled).to_bytes(8, "little") + doubled + bytes(16),
        "deep.safetensors": (200_000).to_bytes(8, "little") + b"{" + b'"a":{' * 39_999 + bytes(9),
        "strided.pth": strided.getvalue(),
        "bomb.pth": bomb.getvalue(),
        "memo.pth": b"\x80\x02r\xff\xff\xff\x7f.",
        "list.pth": b"\x80\x02]" + b"(]" * 500_000,
        "int.pth": b"\x80\x02\x8b\xff\xff\xff\x7f",
    }


@pytest.mark.slow
@pytest.mark.parametrize("name", list(claims()))
def test_a_small_file_that_claims_to_be_huge(tmp_path, name):
    (tmp_path / name).write_bytes(claims()[name])
    photo(tmp_path / "photos" / "a.png")
    words = ("embed", tmp_path / "photos", "--weights", tmp_path / name, "-o", tmp_path / "f.npy")
    code, said = bounded(*words)
    assert code == 1, said
    assert said.count("\n") == said.count("dino: ") == 1, said


@pytest.mark.slow
def test_a_small_file_that_claims_to_be_huge_is_refused_at_once(tmp_path):
    for name, content in claims().items():
        if name not in ("strided.pth", "bomb.pth"):
            (tmp_path / name).write_bytes(content)
            told(load, model="", weights=tmp_path / name)


def test_features_that_claim_to_be_many(tmp_path):
    path = tmp_path / "feats.npy"
    path.with_suffix(".csv").write_text("path,label\na,b\n")
    path.with_suffix(".json").write_text('{"format": 1, "features": "cls"}')
    for shape in ("(1152921504606846976, 384)", "(1, 1152921504606846976)", "(-1, 4)", "(1, 0)"):
        text = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
        path.write_bytes(b"\x93NUMPY\x01\x00v\x00" + text.encode() + bytes(64))
        told(read_embeddings, path)


def test_sizes_of_a_config_that_no_machine_has(tmp_path):
    save_file(tensors(), tmp_path / "model.safetensors")
    for size in (2**60, -1, 0, 1e308, float("nan"), "x", None, [], {}, True):
        for key in ("hidden_size", "num_attention_heads", "patch_size", "num_hidden_layers"):
            config = {"model_type": "vit", "architectures": ["ViTModel"], key: size}
            (tmp_path / "config.json").write_text(json.dumps(config))
            try:
                load(model="", weights=tmp_path)
            except TaskError as error:
                assert "\n" not in str(error)  # noqa: PT017


def test_an_architecture_of_its_own_that_no_machine_has(tmp_path):
    """teacher.safetensors says what it is; nothing is built of such a size."""
    path = write_small_vit(tmp_path / "w.safetensors")
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        said = json.loads(file.metadata()["dino"])
        held = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    vit = said["architecture"]
    timm = {"kind": "timm", "name": "vit_tiny_patch16_224", "in_chans": 3, "arguments": {}}
    impossible = [
        *({**vit, key: value} for key, value in (("width", 2**40), ("depth", 2**40))),
        *(
            {**vit, key: value}
            for key, value in (("depth", -1), ("heads", 0), ("grid", [2**20, 4]))
        ),
        *({**vit, key: value} for key, value in (("eps", float("nan")), ("depth", 10**7))),
        {**timm, "name": "hf-hub:somebody/model"},
        {**timm, "name": "local-dir:/tmp"},
        {**timm, "arguments": {"pretrained": True}},
        {**timm, "arguments": {"checkpoint_path": "/tmp/w.pth"}},
        {**timm, "arguments": {"img_size": [2**40, 2**40]}},
        {**timm, "in_chans": 2**40},
    ]
    for architecture in impossible:
        about = {**said, "architecture": architecture}
        save_file(held, path, metadata={"dino": json.dumps(about)})
        told(load, model="", weights=path)


def test_an_index_that_leads_elsewhere(tmp_path):
    (tmp_path / "model").mkdir()
    save_file(tensors(), tmp_path / "secret.safetensors")
    for name in ("../secret.safetensors", str(tmp_path / "secret.safetensors"), "..", "", "a/b"):
        index = {"weight_map": {"w": name}}
        (tmp_path / "model" / "model.safetensors.index.json").write_text(json.dumps(index))
        told(load, model="", weights=tmp_path / "model")
