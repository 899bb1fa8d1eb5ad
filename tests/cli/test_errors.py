"""Bad input of every command: one sentence on stderr, exit 1 or 2, nothing left behind."""

import os
import pickle
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from dino_cli.cli.app import app
from dino_cli.core.network.architecture import VitArchitecture
from dino_cli.core.network.vit import build_vit

CANARY = "canary-was-run"


class Bomb:
    """Unpickling it would create a file."""

    def __reduce__(self):
        return os.system, (f"touch {CANARY}",)


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with good and bad input; the commands run inside it."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    for name in ("a", "b"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for i in range(3):
            pixels = rng.integers(0, 255, (40, 48, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "photos" / name / f"{i}.png")
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.png").write_text("not an image")
    (tmp_path / "labels.csv").write_text("path,label\nphotos/a/0.png,a\n")
    whole = (tmp_path / "photos" / "a" / "0.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "readonly").mkdir()

    torch.manual_seed(0)
    net = build_vit(VitArchitecture(width=64, depth=2, heads=1, patch_size=16, grid=(14, 14)))
    good = net.state_dict()
    save_file(good, "good.safetensors")
    save_file({k: v for k, v in good.items() if "blocks.1.norm2" not in k}, "missing.safetensors")
    save_file({**good, "blocks.1.extra": torch.ones(3)}, "extra.safetensors")
    save_file({**good, "norm.bias": torch.ones(3)}, "shape.safetensors")
    save_file({**good, "norm.bias": torch.full((64,), torch.nan)}, "nan.safetensors")
    save_file({"x": torch.ones(3), "y": torch.ones(2)}, "unrelated.safetensors")
    for name in ("garbage.pth", "garbage.safetensors"):
        (tmp_path / name).write_bytes(rng.bytes(4000))
    (tmp_path / "empty.pth").write_bytes(b"")
    (tmp_path / "bomb.pth").write_bytes(pickle.dumps({"w": Bomb()}))
    torch.save({"w": Bomb()}, "bomb2.pth")

    features = rng.normal(size=(6, 4)).astype(np.float32)
    np.save("nolabels.npy", features)
    (tmp_path / "notfeatures.npy").write_bytes(b"\x93NUMPYgarbage")
    return tmp_path


def tree(folder):
    return {
        str(p.relative_to(folder)): p.stat().st_mtime_ns if p.is_file() else None
        for p in folder.rglob("*")
    }


W = ["--weights", "good.safetensors", "--device", "cpu"]
TINY = ["--arch", "vit_tiny", "--width", "32", "--depth", "1", "--heads", "1", "--device", "cpu"]
TINY += ["--global-size", "32", "--local-size", "16", "--out-dim", "16", "--head-hidden", "8"]
TINY += ["--batch-size", "2", "--epochs", "1", "--workers", "0"]
TIMM = ["--global-size", "32", "--local-size", "32", "--device", "cpu", "--arch"]

# command, exit code, words that the sentence must hold
CASES = [
    # paths
    (["embed", "nowhere", *W], 1, ["nowhere"]),
    (["embed", "empty", *W], 1, ["empty"]),
    (["embed", "text.png", *W], 1, ["text.png"]),
    (["embed", "cut.png", *W], 1, ["cut.png"]),
    (["embed", "labels.csv"], 1, ["is a table, no picture"]),  # before the hub is asked
    (["embed", "photos", "text.png", *W, "--strict"], 1, ["text.png"]),
    (["embed", *W], 2, ["dino embed photos/"]),
    (["embed", "photos", *W, "-o", "no/such/feats.npy"], 1, ["no/such"]),
    (["embed", "photos", *W, "-o", "feats.xyz"], 2, ["xyz"]),
    (["attention", "nowhere", *W], 1, ["nowhere"]),
    (["attention", "empty", *W], 1, ["empty"]),
    (["attention", "text.png", *W], 1, ["text.png"]),
    (["attention", "photos", *W, "-o", "no/such"], 1, ["no"]),
    (["train", "nowhere", *TINY], 1, ["nowhere"]),
    (["train", "empty", *TINY], 1, ["empty"]),
    (["train", *TINY], 2, ["data"]),
    (["train", "photos", *TINY, "-o", "no/such"], 1, ["no"]),
    (["train", "text.png", "cut.png", *TINY], 1, ["text.png"]),
    (["knn", "--index", "nowhere.npy"], 1, ["nowhere.npy"]),
    (["knn", "--index", "notfeatures.npy"], 1, ["notfeatures.npy"]),
    # weights
    *[
        (["embed", "photos", "--weights", name, "--device", "cpu"], 1, [name, *words])
        for name, words in [
            ("nowhere.pth", []),
            ("empty", []),
            ("empty.pth", ["empty"]),
            ("garbage.pth", []),
            ("garbage.safetensors", []),
            ("bomb.pth", []),
            ("bomb2.pth", []),
            ("unrelated.safetensors", []),
            ("missing.safetensors", ["blocks.1.norm2.bias"]),
            ("extra.safetensors", ["blocks.1.extra"]),
            ("shape.safetensors", ["norm.bias"]),
            ("nan.safetensors", ["norm.bias"]),
            ("text.png", []),
        ]
    ],
    (["attention", "photos", "--weights", "missing.safetensors"], 1, ["blocks.1.norm2.bias"]),
    (["embed", "photos", "--model", "dino_vitz16"], None, ["dino_vitz16", "dino_vits16"]),
    (["attention", "photos", "--model", "dino_vitz16"], None, ["dino_vitz16"]),
    (["weights", "path", "dino_vitz16"], None, ["dino_vitz16"]),
    (["embed", "photos", *W, "--patch-size", "8"], 1, ["8"]),
    (["embed", "photos", *W, "--heads", "7"], None, ["7"]),
    # values
    (["attention", "photos", *W, "--head", "9"], 2, ["9"]),
    (["attention", "photos", *W, "--head", "nose"], 2, ["nose"]),
    (["attention", "photos", *W, "--threshold", "0"], 2, ["0"]),
    (["attention", "photos", *W, "--threshold", "1.5"], 2, ["1.5"]),
    (["attention", "photos", *W, "--image-size", "big"], 2, ["big"]),
    (["attention", "photos", *W, "--image-size", "7"], 2, ["7"]),
    (["embed", "photos", *W, "--batch-size", "0"], 2, ["0"]),
    (["embed", "photos", *W, "--resize", "0"], 2, ["0"]),
    (["embed", "photos", "--weights", "good.safetensors", "--device", "tpu"], 2, ["tpu"]),
    (["embed", "photos", *W, "--precision", "fp16"], 2, ["fp16"]),
    (["train", "photos", *TINY, "--batch-size", "7"], 1, ["6 images", "7"]),
    (["train", "photos", *TINY, "--accumulate", "9"], 1, ["6 images", "18"]),
    (["train", "photos", *TINY, "--warmup-epochs", "3"], 2, ["3"]),
    (["train", "photos", *TINY, "--warmup-teacher-temp-epochs", "3"], 2, ["3"]),
    (["train", "photos", *TINY, "--arch", "vit_huge_typo"], 2, ["vit_huge_typo"]),
    (["train", "photos", *TINY, "--local-size", "17"], 2, ["17"]),
    (["train", "photos", *TINY, "--heads", "5"], 2, ["5"]),
    (["train", "photos", *TINY, "--lr", "-1"], 2, ["-1"]),
    (["train", "photos", *TINY, "--epochs", "0"], 2, ["0"]),
    *[
        (["train", "photos", *TINY, flag, *values.split()], 2, [flag, values])
        for flag, values in [
            ("--watch", "-1"), ("--keep", "-3"), ("--keep", "0"), ("--freeze-last-layer", "inf"),
            ("--freeze-last-layer", "nan"), ("--freeze-last-layer", "-1"), ("--timeout", "nan"),
            ("--timeout", "0"), ("--timeout", "1e+300"), ("--lr", "inf"), ("--weight-decay", "inf"),
            ("--min-lr", "nan"), ("--jitter", "nan 0.4 0.2 0.1"), ("--jitter", "-1 0.4 0.2 0.1"),
            ("--augment-start", "0 0 0 0.6 0 0"), ("--augment-start", "0 0 0 0 2 0"),
            ("--std", "inf"), ("--seed", str(2**63)),
        ]
    ],
    (["train", "photos", *TIMM, "repvit_m0_9"], 2, ["no stochastic depth", "--drop-path 0"]),
    (["train", "photos", *TINY, "--global-crops-scale", "0.9", "0.1"], 2, ["0.9"]),
    (["train", "photos", *TINY, "--preset", "nothing"], 2, ["nothing", "vits16"]),
    (["train", "photos", *TINY, "--config", "nowhere.toml"], 1, ["nowhere.toml"]),
    (["train", "photos", *TINY, "--eval-data", "photos/a"], 2, ["photos/a"]),
    (["train", "photos", *TINY, "--init-from", "good.safetensors"], 1, ["good.safetensors"]),
    (["train", "--resume", "nowhere"], 1, ["'nowhere' does not exist"]),
    (["report", "nowhere"], 1, ["'nowhere' does not exist"]),
    (["demo", "--images", "photos"], 1, ["'photos' already exists"]),
    (["train", "photos", *TINY, "-o", "photos"], 1, ["'photos' already exists", "another -o"]),
    (["demo", "--images", "new", "--count", "0"], 2, ["0"]),
    (["demo", "--images", "new", "--count", "99999999999999999999"], 2, ["1000000"]),
    (["demo", "--images", "new", "--count", "4", "--size", "99999"], 2, ["99999", "4096"]),
    (["demo", "--images", "no/such"], 1, ["no"]),
    (["nonsense"], 2, ["nonsense"]),
    (["embed", "photos", "--nonsense"], 2, ["--nonsense"]),
]  # fmt: skip
if not torch.cuda.is_available():
    CASES += [
        (["embed", "photos", "--weights", "good.safetensors", "--device", "cuda"], 2, ["cuda"]),
        (["train", "photos", *TINY, "--device", "cuda"], 2, ["cuda"]),
    ]


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    CASES,
    ids=lambda x: " ".join(x) if isinstance(x, list) else None,
)
def test_bad_input(place, arguments, code, words):
    before = tree(place)
    result = CliRunner().invoke(app, arguments)
    shown = result.stderr
    assert result.exit_code in ({code} if code is not None else {1, 2}), result.output
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    assert "Traceback" not in shown
    for word in words:
        assert word in " ".join(shown.split()), shown
    if shown.startswith("dino: error:"):
        errors = [line for line in shown.splitlines() if line.startswith("dino: error:")]
        assert len(errors) == 1
        assert shown.splitlines()[-1] == errors[0]
        assert len(errors[0]) < 500
    assert result.stdout == ""
    assert tree(place) == before
    assert not (place / CANARY).exists()


def test_the_good_weights_are_good(place):
    """Else the cases above would fail for another reason than theirs."""
    assert len(load_file("good.safetensors")) > 20
    result = CliRunner().invoke(app, ["embed", "photos", *W, "--workers", "0"])
    assert result.exit_code == 0, result.output
    result = CliRunner().invoke(app, ["knn", "--index", "feats.npy", "-k", "200"])
    assert result.exit_code == 0, result.output
    assert "k=200 but" in result.stderr
    result = CliRunner().invoke(app, ["embed", "photos", *W])
    assert result.exit_code == 1, "an existing output is not overwritten"
    assert "feats.npy" in result.stderr


def test_existing_results_stay(place):
    (place / "run").mkdir()
    (place / "run" / "mine.txt").write_text("mine")
    before = tree(place)
    result = CliRunner().invoke(app, ["train", "photos", *TINY, "-o", "run"])
    assert (result.exit_code, tree(place)) == (1, before)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_unwritable_output(place):
    (place / "readonly").chmod(0o500)
    result = CliRunner().invoke(app, ["embed", "photos", *W, "-o", "readonly/feats.npy"])
    assert result.exit_code == 1
    assert "readonly" in result.stderr


@pytest.mark.slow
def test_more_ranks_than_images(place):
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    command += ["--master-port", "29533", "-m", "dino_cli", "train", "photos/a/0.png", *TINY]
    command += ["--batch-size", "1", "-o", "run"]
    done = subprocess.run(
        command, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True,
        timeout=120,
    )  # fmt: skip
    assert done.returncode != 0
    assert "1 image is fewer than one total batch of 2" in done.stderr
    assert not (place / "run").exists()


@pytest.mark.parametrize("command", ["embed", "attention", "pca"])
def test_a_wrong_path_is_told_before_a_network_is_missed(command, tmp_path, monkeypatch):
    monkeypatch.setattr("dino_cli.tasks.early.reach", lambda _: pytest.fail("asked the network"))
    words = [command, str(tmp_path / "nowhere"), "-o", str(tmp_path / "out.npy")]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 1
    assert "nowhere' does not exist" in result.stderr
