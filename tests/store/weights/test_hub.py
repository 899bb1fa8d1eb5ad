"""Models by name, against a server on this machine that speaks as much of the hub as is needed.

In subprocesses, because huggingface_hub reads its environment when it is imported.
"""

import json
import os
import socket
import subprocess
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save

from dino_cli.core.network.architecture import VitArchitecture
from dino_cli.core.network.vit import build_vit
from dino_cli.store.weights.empty import empty_network

COMMIT = "0123456789abcdef0123456789abcdef01234567"
SMALL = VitArchitecture(width=64, depth=2, heads=1, patch_size=16, grid=(14, 14), eps=1e-12)
VIT_S = VitArchitecture(width=384, depth=12, heads=6, patch_size=16, grid=(14, 14))
CONFIG = {"model_type": "vit", "num_attention_heads": 1, "layer_norm_eps": 1e-12}


class Dino:
    """Runs the command with an empty cache, against the given server."""

    def __init__(self, folder: Path, address: str) -> None:
        self.folder = folder
        kept = {k: v for k, v in os.environ.items() if not k.lower().endswith("_proxy")}
        kept.pop("HF_HUB_OFFLINE", None)
        self.environment = {
            **kept,
            "HF_ENDPOINT": address,
            "HF_HOME": str(folder / "hf"),
            "TORCH_HOME": str(folder / "torch"),
            "OMP_NUM_THREADS": "1",
        }

    def __call__(self, *arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
        return self.python("from dino_cli.__main__ import main; main()", *arguments, **environment)

    def python(
        self, code: str, *arguments: object, **environment: str
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", code, *map(str, arguments)],
            env={**self.environment, **environment},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )


@pytest.fixture
def dino(tmp_path: Path, hub: Any) -> Dino:
    return Dino(tmp_path, hub.address)


def sentence(result: subprocess.CompletedProcess[str]) -> str:
    assert result.returncode == 1, result.stderr
    assert result.stdout == ""
    lines = result.stderr.splitlines()
    assert len(lines) == 1, result.stderr
    assert lines[0].startswith("dino: error: ")
    return lines[0]


HUGGINGFACE_NAMES = {
    "blocks.": "encoder.layer.",
    "norm1": "layernorm_before",
    "norm2": "layernorm_after",
    "patch_embed.proj": "embeddings.patch_embeddings.projection",
    "mlp.fc1": "intermediate.dense",
    "mlp.fc2": "output.dense",
    "attn.proj": "attention.output.dense",
    "pos_embed": "embeddings.position_embeddings",
    "cls_token": "embeddings.cls_token",
}


def vit_small() -> dict[str, torch.Tensor]:
    shapes = empty_network(VIT_S).state_dict()
    return {name: torch.full(t.shape, 0.01, dtype=torch.float16) for name, t in shapes.items()}


def huggingface_bytes(architecture: VitArchitecture) -> bytes:
    """A small ViT under Hugging Face's names."""
    named = {}
    for name, tensor in build_vit(architecture).state_dict().items():
        for ours, theirs in HUGGINGFACE_NAMES.items():
            name = name.replace(ours, theirs)
        name = "layer" + name if name.startswith("norm.") else name
        if "attn.qkv" in name:
            for part, chunk in zip(("query", "key", "value"), tensor.chunk(3), strict=True):
                renamed = name.replace("attn.qkv", f"attention.attention.{part}")
                named[renamed] = chunk.contiguous()
        else:
            named[name] = tensor
    return save(named)


DESCRIBE = """
import json, sys
from dino_cli.errors import DinoError
from dino_cli.progress import Reporter
from dino_cli.store.weights.load import load
for i, name in enumerate(2 * sys.argv[1:]):
    w = load(model=name, weights=None, offline=i >= len(sys.argv) - 1)
    a = w.architecture
    print(json.dumps({"name": w.name, "source": w.source, "tensors": len(w.tensors),
        "eps": a.eps, "positions": a.positions, "resize": w.preprocessing.resize,
        "crop": w.preprocessing.crop, "mean": w.preprocessing.mean}))
"""


@pytest.mark.slow
def test_by_registry_name_hub_id_and_timm_name_then_offline(hub: Any, dino: Dino) -> None:
    backbone = save(vit_small())
    hub.add("timm/vit_small_patch16_224.dino", "model.safetensors", backbone)
    hub.add("facebook/dino-small", "config.json", json.dumps(CONFIG).encode())
    hub.add("facebook/dino-small", "pytorch_model.bin", b"")
    hub.add("facebook/dino-small", "model.safetensors", huggingface_bytes(SMALL))
    preprocessor = {"size": 224, "image_mean": [0.4, 0.5, 0.6], "image_std": [0.1, 0.2, 0.3]}
    hub.add("facebook/dino-small", "preprocessor_config.json", json.dumps(preprocessor).encode())
    names = ["dino_vits16", "facebook/dino-small", "vit_small_patch16_224.dino"]
    result = dino.python(DESCRIBE, *names)
    assert result.returncode == 0, result.stderr
    registry, huggingface, timm, *again = map(json.loads, result.stdout.splitlines())
    assert again == [registry, huggingface, timm]
    assert registry == {
        "name": "dino_vits16",
        "source": "timm/vit_small_patch16_224.dino",
        "tensors": 150,
        "eps": 1e-6,
        "positions": "dino",
        "resize": 256,
        "crop": 224,
        "mean": [0.485, 0.456, 0.406],
    }
    assert timm == {**registry, "name": "vit_small_patch16_224.dino", "resize": 248}
    assert huggingface["eps"] == 1e-12
    assert huggingface["positions"] == "dino"
    assert (huggingface["resize"], huggingface["crop"]) == (256, 224)
    assert huggingface["mean"] == [0.4, 0.5, 0.6]
    # What is cached needs no network: every file was asked for once, by HEAD (twice) and GET.
    asked = [request for request in hub.requests if "/resolve/" in request]
    assert max(Counter(asked).values()) <= 2
    assert not any("pytorch_model" in request for request in asked)
    count = len(hub.requests)
    assert dino("weights", "path", "dino_vits16", HF_HUB_OFFLINE="1").returncode == 0
    assert dino("weights", "download", "facebook/dino-small").returncode == 0
    assert len(hub.requests) == count


@pytest.mark.slow
def test_a_bin_file_where_there_is_no_safetensors(hub: Any, dino: Dino, tmp_path: Path) -> None:
    torch.save({"cls_token": torch.zeros(1, 1, 64)}, tmp_path / "w.bin")
    content = (tmp_path / "w.bin").read_bytes()
    hub.add("timm/vit_small_patch16_224.dino", "pytorch_model.bin", content)
    result = dino("weights", "download", "dino_vits16", "--to", tmp_path / "kept")
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "kept" / "dino_vits16.bin").read_bytes() == content
    assert result.stdout == f"dino_vits16\t{tmp_path / 'kept' / 'dino_vits16.bin'}\n"
    assert dino("weights", "path", "dino_vits16").stdout.strip().endswith("pytorch_model.bin")
    listed = json.loads(dino("weights", "list", "--json").stdout)
    assert [m["name"] for m in listed if m["path"] and m["hub"]] == ["dino_vits16"]


def test_a_snapshot_is_copied_as_a_folder(hub: Any, dino: Dino, tmp_path: Path) -> None:
    hub.add("someone/vit", "config.json", json.dumps(CONFIG).encode())
    hub.add("someone/vit", "model.safetensors", huggingface_bytes(SMALL))
    result = dino("weights", "download", "someone/vit", "--to", tmp_path / "kept", "--json")
    assert json.loads(result.stdout) == {"someone/vit": str(tmp_path / "kept" / "someone--vit")}
    files = sorted(path.name for path in (tmp_path / "kept" / "someone--vit").iterdir())
    assert files == ["config.json", "model.safetensors"]
    assert "exists; use --overwrite" in sentence(
        dino("weights", "download", "someone/vit", "--to", tmp_path / "kept")
    )


@pytest.mark.slow
def test_what_the_hub_does_not_give(hub: Any, dino: Dino) -> None:
    hub.add("someone/empty", "config.json", b"{}")
    said = sentence(dino("weights", "download", "someone/empty"))
    assert "has no model.safetensors and no pytorch_model.bin" in said
    said = sentence(dino("weights", "download", "Ramos-Ramos/dino-resnet50"))
    assert "the hub has no model 'Ramos-Ramos/dino-resnet50'" in said
    assert "did you mean Ramos-Ramos/dino-resnet-50" in said
    hub.status = 403
    said = sentence(dino("weights", "download", "facebook/dinov3"))
    assert "accepted its licence" in said
    assert "HF_TOKEN" in said
    hub.gated = False
    for status in (401, 403):
        hub.status = status
        said = sentence(dino("weights", "download", "facebook/dinov3"))
        assert "set HF_TOKEN" in said
    hub.status = 500
    said = sentence(dino("weights", "download", "dino_vits16"))
    assert "the hub answered 500" in said


@pytest.mark.slow
def test_a_download_that_breaks_off(hub: Any, dino: Dino) -> None:
    hub.add("timm/vit_small_patch16_224.dino", "model.safetensors", bytes(5000))
    hub.cut = True
    assert "broke off" in sentence(dino("weights", "download", "dino_vits16"))
    assert "not on this disk" in sentence(dino("weights", "path", "dino_vits16"))


@pytest.mark.slow
def test_a_body_that_is_not_what_the_hub_names(hub: Any, dino: Dino) -> None:
    hub.add("timm/vit_small_patch16_224.dino", "model.safetensors", bytes(5000))
    hub.wrong = True  # its ETag is the SHA-256 of another file
    assert "is not the file that was published" in sentence(
        dino("weights", "download", "dino_vits16")
    )
    assert "not on this disk" in sentence(dino("weights", "path", "dino_vits16"))
    hub.wrong, hub.large = False, True
    assert dino("weights", "download", "dino_vits16").returncode == 0
    verified = json.loads(dino("weights", "verify", "dino_vits16", "--json").stdout)
    assert [(f["by"], f["ok"]) for f in verified] == [("hub", True)]
    path = Path(verified[0]["path"])
    path.resolve().write_bytes(bytes(5001))
    result = dino("weights", "verify", "dino_vits16", "-q")
    assert "have changed since they were published" in sentence(result)
    result = dino("export", "dino_vits16", "-q", "-o", dino.folder / "w.pth")
    assert "dino weights remove dino_vits16" in sentence(result)
    removed = json.loads(dino("weights", "remove", "dino_vits16", "--json").stdout)
    assert [entry["bytes"] for entry in removed] == [5001 + len(COMMIT)]
    assert not any((dino.folder / "hf" / "hub").rglob("models--*"))  # nor among its locks


@pytest.mark.slow
def test_two_processes_at_once(hub: Any, dino: Dino) -> None:
    hub.add("timm/vit_small_patch16_224.dino", "model.safetensors", bytes(300_000))
    hub.slow = 1.0
    with ThreadPoolExecutor(2) as pool:
        both = list(pool.map(lambda _: dino("weights", "download", "dino_vits16"), range(2)))
    assert [result.returncode for result in both] == [0, 0], both
    assert both[0].stdout == both[1].stdout
    file = Path(both[0].stdout.split("\t")[1].strip())
    assert file.read_bytes() == bytes(300_000)


LIMITED = """
import resource, signal
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))  # as a full disk
from dino_cli.__main__ import main
main()
"""


@pytest.mark.slow
def test_a_disk_that_takes_no_more(hub: Any, dino: Dino) -> None:
    hub.add("timm/vit_small_patch16_224.dino", "model.safetensors", bytes(500_000))
    hub.files["dino/a.pth"] = bytes(500_000)
    result = dino.python(LIMITED, "weights", "download", "dino_vits16")
    assert "does not fit the disk of" in sentence(result)
    assert "HF_HOME" in result.stderr
    assert "not on this disk" in sentence(dino("weights", "path", "dino_vits16"))


PROGRESS = """
from dino_cli.progress import Reporter
from dino_cli.store.weights.hub import locate
class Notes(Reporter):
    def stage(self, name, total=None, unit="images", done=0): print("stage", name, total, unit)
    def advance(self, count=1): print("advance", count)
    def remark(self, text): print("remark", text)
locate("dino_vits16", offline=False, reporter=Notes())
"""


@pytest.mark.slow
def test_progress_is_in_megabytes(hub: Any, dino: Dino) -> None:
    hub.add("timm/vit_small_patch16_224.dino", "model.safetensors", bytes(25_300_000))
    lines = dino.python(PROGRESS).stdout.splitlines()
    assert lines[0].startswith("remark fetching timm/vit_small_patch16_224.dino (25 MB)")
    assert lines[1] == "stage fetching model.safetensors 26 MB"
    assert sum(int(line.split()[1]) for line in lines[2:]) == 25
    assert len(lines) > 3


TIMED = """
import sys, time, huggingface_hub
from dino_cli.store.weights.hub import locate
from dino_cli.progress import Reporter
from dino_cli.errors import TaskError
huggingface_hub.get_hf_file_metadata, huggingface_hub.hf_hub_url  # imported lazily
start = time.monotonic()
try:
    locate("dino_vits16", offline=False, reporter=Reporter())
except TaskError as error:
    print(time.monotonic() - start)
    print(error)
"""


@pytest.mark.slow
@pytest.mark.alone
def test_no_network_is_said_within_five_seconds(tmp_path: Path) -> None:
    with socket.socket() as silent, socket.socket() as closed:
        silent.bind(("127.0.0.1", 0))
        silent.listen(5)  # accepts connections and never answers
        closed.bind(("127.0.0.1", 0))  # refuses them
        for server in (silent, closed):
            dino = Dino(tmp_path, f"http://127.0.0.1:{server.getsockname()[1]}")
            result = dino.python(TIMED)
            seconds, said = result.stdout.splitlines()
            assert float(seconds) < 5
            assert result.stderr == ""
            command = dino("weights", "download", "dino_vits16")
            assert sentence(command) == f"dino: error: {said}"
            for part in (
                "'dino_vits16' cannot be fetched: the hub does not answer",
                str(tmp_path / "hf" / "hub"),
                "dino_deitsmall16_pretrain.pth",
                "--weights",
                "--offline",
            ):
                assert part in said
