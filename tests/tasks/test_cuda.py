"""Every command on a CUDA device, against the same command on the CPU: `pytest -m gpu`."""

import csv
import json
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from in_process import dino
from PIL import Image
from small_run import losses

from dino_cli.core.training import cuda_graph
from dino_cli.store.runs.log import Log
from dino_cli.tasks.bench import limits

pytestmark = pytest.mark.gpu

DEVICES = ("cpu", "cuda")


def test_a_gpu_is_another_place():
    """What a simulated one must do, too, for the tests below to say anything."""
    here, there = torch.ones(2, requires_grad=True), torch.full((2,), 3.0, device="cuda")
    assert (here.device.type, there.device.type) == DEVICES
    for mixed in (lambda: here + there, lambda: there.sum() + here, lambda: there.numpy()):
        with pytest.raises((RuntimeError, TypeError)):
            mixed()
    product = (here.to("cuda") * there).sum()
    assert product.is_cuda
    product.backward()
    assert here.grad.device.type == "cpu"
    assert here.grad.tolist() == [3, 3]


@pytest.fixture
def masks(images, tmp_path):
    """A binary mask for each of the drawings: its left half."""
    folder = tmp_path / "masks"
    for path in images.rglob("*.png"):
        mask = np.zeros((40, 40), np.uint8)
        mask[:, :20] = 255
        target = folder / path.relative_to(images)
        target.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(mask).save(target)
    return folder


def cosine(a, b):
    a, b = (x.astype(np.float64).reshape(len(x), -1) for x in (a, b))
    return (a * b).sum(1) / (np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1))


@pytest.mark.parametrize("features", ["cls", "last4", "patch", "keys"])
def test_embed(images, tiny_weights, tmp_path, features):
    found = {}
    for name, device, precision in (
        ("cpu", "cpu", "fp32"),
        ("fp32", "cuda", "fp32"),
        ("bf16", "cuda", "bf16"),
        ("fp16", "cuda", "fp16"),
    ):
        dino(
            "embed", images, "--weights", tiny_weights, "-o", tmp_path / f"{name}.npy",
            "--features", features, "--device", device, "--precision", precision,
        )  # fmt: skip
        found[name] = np.load(tmp_path / f"{name}.npy")
    kept_in_half = features in ("patch", "keys")
    tolerance = 2e-3 if kept_in_half else 1e-4
    np.testing.assert_allclose(found["fp32"], found["cpu"], rtol=tolerance, atol=tolerance)
    assert cosine(found["bf16"], found["cpu"]).min() > 0.999
    assert cosine(found["fp16"], found["cpu"]).min() > 0.9999


def test_embed_compiled(images, tiny_weights, tmp_path):
    for name, more in (("plain", []), ("compiled", ["--compile"])):
        dino("embed", images, "--weights", tiny_weights, "-o", tmp_path / f"{name}.npy",
             "--device", "cuda", "--precision", "fp32", *more)  # fmt: skip
    a, b = (np.load(tmp_path / f"{name}.npy") for name in ("plain", "compiled"))
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


def test_knn(images, tiny_weights, tmp_path):
    index = tmp_path / "index.npy"
    dino("embed", images, "--weights", tiny_weights, "-o", index, "--device", "cpu")
    told = {}
    for device in DEVICES:
        out = tmp_path / f"{device}.csv"
        dino("knn", images, "--index", index, "-k", "5", "-o", out, "--device", device,
             "--precision", "fp32")  # fmt: skip
        with out.open() as lines:
            told[device] = [(row["path"], row["predicted"]) for row in csv.DictReader(lines)]
    assert told["cuda"] == told["cpu"]
    result = dino("knn", "--index", index, "-k", "5", "--device", "cuda", "--json")
    exact = dino("knn", "--index", index, "-k", "5", "--device", "cpu", "--json")
    assert numbers(json.loads(result.stdout)) == numbers(json.loads(exact.stdout))


@pytest.mark.parametrize("masks_from", ["attention", "seeded", "cut"])
def test_attention(images, tiny_weights, tmp_path, masks_from):
    for device in DEVICES:
        dino(
            "attention", images / "fish", "--weights", tiny_weights, "-o", tmp_path / device,
            "--head", "all", "--masks", masks_from, "--refine", "guided", "--device", device,
            "--precision", "fp32",
        )  # fmt: skip
    files = sorted(p.relative_to(tmp_path / "cpu") for p in (tmp_path / "cpu").rglob("*.png"))
    assert files == sorted(
        p.relative_to(tmp_path / "cuda") for p in (tmp_path / "cuda").rglob("*.png")
    )
    assert files
    for file in files:
        a, b = (np.asarray(Image.open(tmp_path / d / file), np.int16) for d in DEVICES)
        assert np.mean(np.abs(a - b) > 3) < 0.01, file


def test_pca(images, tiny_weights, tmp_path):
    for device in DEVICES:
        dino("pca", images / "fish", "--weights", tiny_weights, "-o", tmp_path / device,
             "--device", device, "--precision", "fp32")  # fmt: skip
    for path in (tmp_path / "cpu").rglob("*.png"):
        other = tmp_path / "cuda" / path.relative_to(tmp_path / "cpu")
        a, b = (np.asarray(Image.open(p), np.int16) for p in (path, other))
        assert np.abs(a - b).mean() < 2


@pytest.mark.parametrize(
    ("what", "tolerance"),
    [
        (["--precision", "fp32", "--views", "cpu"], 1e-4),
        (["--precision", "fp32", "--views", "cpu", "--cuda-graph"], 1e-4),
        (["--precision", "fp32", "--views", "cpu", "--cuda-graph", "--use-bn-in-head"], 1e-4),
        (["--precision", "fp32", "--views", "cpu", "--cuda-graph", "--conv-stem"], 1e-3),
        (["--precision", "fp32", "--views", "cpu", "--cuda-graph", "--drop-path", "0.3"], 1e-4),
        (["--precision", "bf16", "--cuda-graph", "--compile"], 0.05),
        (["--precision", "fp32", "--views", "gpu"], 0.02),  # the weights of its resampling: fp16
        (["--precision", "fp32", "--views", "cpu", "--use-bn-in-head"], 1e-4),
        (["--precision", "fp32", "--views", "cpu", "--optimizer", "sgd"], 1e-4),
        (["--precision", "fp32", "--views", "cpu", "--optimizer", "lars"], 1e-4),
        (["--precision", "fp32", "--views", "cpu", "--accumulate", "2"], 1e-4),
        (["--precision", "fp32", "--views", "cpu", "--drop-path", "0.3"], 1e-4),
        (["--precision", "fp32", "--views", "cpu", "--conv-stem"], 1e-3),
        (["--precision", "fp32", "--views", "cpu", "--checkpoint-activations"], 1e-4),
        (["--precision", "bf16"], 0.05),
        (["--precision", "bf16", "--compile"], 0.05),
    ],
    ids=lambda value: " ".join(value[1:]) if isinstance(value, list) else "",
)
def test_train(images, small, tmp_path, what, tolerance):
    """Twelve steps: the losses of the CPU in fp32."""
    where = ("bf16", "gpu", "--precision", "--views", "cpu", "fp32", "--compile",
             "--cuda-graph")  # fmt: skip
    same = [word for word in what if word not in where]
    dino("train", images, "--config", small, "-o", tmp_path / "cpu", "--views", "cpu", *same)
    dino("train", images, "--config", small, "-o", tmp_path / "cuda", "--device", "cuda", *what)
    a, b = losses(tmp_path / "cpu"), losses(tmp_path / "cuda")
    assert list(a) == list(b)
    assert max(abs(a[step] - b[step]) for step in a) < tolerance


def test_a_network_that_cannot_be_recorded_trains_without(images, small, tmp_path, monkeypatch):
    """As timm's DINOv3, whose rotary positions come from the host in each pass."""

    def fail(*_):
        raise cuda_graph.RecordingError("operation not permitted when stream is capturing")

    run = tmp_path / "run"
    with monkeypatch.context() as during:
        during.setattr(cuda_graph, "_record", fail)
        said = dino("train", images, "--config", small, "-o", run, "--device", "cuda",
                    "--cuda-graph", code=1).stderr  # fmt: skip
    assert "vit_tiny cannot be recorded and replayed (operation not permitted" in said
    dino(*said.splitlines()[-1].split("go on with: dino ")[1].split(), "--max-steps", "2")
    assert len(losses(run)) == 2


def test_train_in_half_precision(images, small, tmp_path):
    """Until the student moves the losses are the CPU's. The scale of the loss falls first, a step
    at a time, to where no gradient overflows; those steps leave the student as it is."""
    dino("train", images, "--config", small, "-o", tmp_path / "cpu", "--views", "cpu")
    dino("train", images, "--config", small, "-o", tmp_path / "cuda", "--device", "cuda",
         "--precision", "fp16")  # fmt: skip
    a, b = losses(tmp_path / "cpu"), losses(tmp_path / "cuda")
    assert list(a) == list(b)
    assert [b[0], b[1]] == pytest.approx([a[0], a[1]], abs=0.05)
    log = Log.read(tmp_path / "cuda" / "log.jsonl")
    finite = [entry["gradient_norm"] is not None for entry in log if "step" in entry]
    assert finite[-1]
    assert finite == sorted(finite)
    assert np.isfinite(list(b.values())).all()


@pytest.mark.parametrize("what", [["--drop-path", "0.3", "--views", "gpu"], ["--conv-stem"]])
def test_resume(images, small, tmp_path, what):
    """In a run of two halves; kernels that add in any order leave the last digits open."""
    on = ["--config", small, "--device", "cuda", *what]
    dino("train", images, *on, "-o", tmp_path / "whole")
    dino("train", images, *on, "-o", tmp_path / "part", "--max-steps", "6", "--workers", "1")
    dino("train", "--resume", tmp_path / "part", "--max-steps", "12", "--workers", "2")
    a, b = losses(tmp_path / "whole"), losses(tmp_path / "part")
    assert list(a) == list(b)
    assert max(abs(a[step] - b[step]) for step in a) < 1e-4
    states = [
        torch.load(tmp_path / n / "checkpoint.pt", weights_only=True) for n in ("whole", "part")
    ]
    for key in ("student", "teacher"):
        for name, value in states[0][key].items():
            assert value.device.type == "cpu"
            torch.testing.assert_close(value, states[1][key][name], rtol=1e-3, atol=1e-4)


def test_a_run_with_all_extras(images, small, tmp_path):
    """k-NN on the way, the report, and the teacher in use."""
    run = tmp_path / "run"
    dino("train", images, "--config", small, "-o", run, "--device", "cuda", "--eval-data", images,
         "--precision", "bf16", "--workers", "2")  # fmt: skip
    dino("report", run, "-o", tmp_path / "report.html")
    dino("embed", images, "--weights", run, "-o", tmp_path / "f.npy", "--device", "cuda")
    assert np.isfinite(np.load(tmp_path / "f.npy")).all()
    entries = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    assert any(entry.get("knn_top1") for entry in entries)
    assert all(entry["memory_gib"] > 0 for entry in entries if "step" in entry)


def test_dry_run(images, small):
    cost = json.loads(
        dino("train", images, "--config", small, "--device", "cuda", "--dry-run", "--json").stdout
    )
    assert "cuda" in json.dumps(cost)


@pytest.mark.parametrize("what", ["knn", "linear", "fast", "segmentation", "retrieval"])
def test_eval(images, masks, tiny_weights, tmp_path, what):
    words = {
        "knn": ["knn", images, images],
        "linear": ["linear", images, images, "--epochs", "1", "--batch-size", "8"],
        "fast": ["linear", images, images, "--fast"],
        "segmentation": ["segmentation", images, masks],
        "retrieval": ["retrieval", images],
    }[what]
    told = {}
    for device in DEVICES:
        result = dino("eval", *words, "--weights", tiny_weights, "--json", "--device", device,
                      "--precision", "fp32", *out_of(what, tmp_path / device))  # fmt: skip
        told[device] = numbers(json.loads(result.stdout))
    assert set(told["cpu"]) == set(told["cuda"])
    for key, value in told["cpu"].items():
        # Chance decides on draws between photos that tiny weights cannot tell apart.
        assert told["cuda"][key] == pytest.approx(value, abs=7 if "linear" in str(words) else 3), (
            key
        )


def out_of(what, folder):
    return ["-o", folder] if what == "linear" else []


def numbers(value, at=""):
    """The figures of a result by their place, but for times."""
    if isinstance(value, dict):
        parts = [numbers(v, f"{at}.{k}") for k, v in value.items() if "second" not in k]
        return {k: v for part in parts for k, v in part.items()}
    return {at: value} if isinstance(value, float) else {}


@pytest.mark.parametrize(
    "words",
    [
        ["views", "--photos", "2", "--batch-size", "4"],
        ["step", "--batch-size", "2"],
        ["train", "--arch", "vit_tiny", "--out-dim", "1024", "--batch-size", "8", "--workers", "2"],
        ["embed", "--arch", "vit_tiny", "--photos", "16"],
        ["knn", "--queries", "200", "--rows", "5000"],
        ["attention", "--arch", "vit_tiny", "--photos", "2", "--image-size", "224"],
    ],
    ids=lambda words: words[0],
)
def test_bench(words, monkeypatch):
    if "simulated" in torch.cuda.get_device_name():  # what a GPU does in no time
        if words[0] == "train":
            pytest.skip("minutes on a CPU, and dino train has tests of its own")
        monkeypatch.setattr(limits, "_best", lambda work, device: 1.0)
        monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())
    result = json.loads(dino("bench", *words, "--seconds", "0", "--json").stdout)
    assert "NVIDIA" in result["device"]
    assert result.get("cosine", 1) > 0.999
    assert result.get("agreement", 1) > 0.99
