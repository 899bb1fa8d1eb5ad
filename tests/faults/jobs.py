"""Commands that write something, with small inputs, for the tests that disturb them.

Everything is imported here, so that a process forked from this one begins with the work.
"""

import contextlib
import hashlib
import json
import os
import random
import signal
import sys
import time
from collections.abc import Callable, Iterable
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import matplotlib.backends.backend_agg  # noqa: F401
import pyarrow.parquet  # noqa: F401
import torch
import torch.utils.tensorboard
from faults.forks import forked
from small_vit import photo, write_small_vit

import dino_cli.tasks.attention.run
import dino_cli.tasks.demo.draw
import dino_cli.tasks.embed.run
import dino_cli.tasks.export
import dino_cli.tasks.knn.run
import dino_cli.tasks.pca.run
import dino_cli.tasks.report
import dino_cli.tasks.train.run  # noqa: F401
from dino_cli.cli.app import app
from dino_cli.errors import TaskError
from dino_cli.progress import Reporter
from dino_cli.store.runs.log import Log
from dino_cli.store.weights.download import download

__all__ = ["AGAIN", "FIRST", "JOBS", "KEPT", "OVER", "contents", "try_all"]

TRAIN = """
arch = "vit_tiny"
patch_size = 8
width = 32
depth = 1
heads = 2
out_dim = 32
head_hidden = 32
head_bottleneck = 16
batch_size = 8
epochs = 6
global_size = 16
local_size = 8
local_crops_number = 1
device = "cpu"
precision = "fp32"
workers = 0
log_every = 1
save_every = 1
warmup_epochs = 1
watch = 1
keep_every = 2
"""
# Anew; after a kill; once more over what is there.
FIRST, AGAIN, OVER = "first", "again", "over"
# Jobs that keep what they have done when something is refused, and go on from it.
KEPT = {"train", "fetch"}
# Makes the inputs in a folder; returns what does the work in another, and what is compared there.
Job = Callable[[Path], tuple[Callable[[Path, str], None], Callable[[Path], Any]]]
JOBS: dict[str, Job] = {}


def job(make: Job) -> Job:
    JOBS[make.__name__] = make
    return make


def try_all(names: Iterable[str], try_one: Callable[[str], Any]) -> None:
    """Print what became of each job, as JSON; what a job started does not outlive them."""
    torch.set_num_threads(1)
    found = {}
    try:
        for name in names:
            found[name] = try_one(name)
            print(name, json.dumps(found[name], indent=1), file=sys.stderr, flush=True)  # noqa: T201
    finally:
        for child in CHILDREN:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
    print(json.dumps(found))  # noqa: T201


def dino(*words: object) -> None:
    app([str(word) for word in words], prog_name="dino", standalone_mode=True)


def contents(folder: Path) -> dict[str, str]:
    """SHA-256 of every file by its name, hidden ones and folders too."""
    return {
        str(path.relative_to(folder)): (
            hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "folder"
        )
        for path in sorted(folder.rglob("*"))
    }


def _photos(inputs: Path, count: int) -> Path:
    for i in range(count):
        photo(inputs / "photos" / "abc"[i % 3] / f"{i:02}.png", seed=i)
    return write_small_vit(inputs / "w.safetensors")


def _embed(inputs: Path, suffix: str, *more: object) -> Any:
    weights = _photos(inputs, 24)

    def work(place: Path, turn: str) -> None:
        words = ["embed", inputs / "photos", "--weights", weights, "--batch-size", 1, *more]
        words += {AGAIN: ["--resume"], OVER: ["--overwrite"]}.get(turn, [])
        dino(*words, "--workers", 0, "--device", "cpu", "-o", place / f"feats{suffix}")

    return work, contents


@job
def embed(inputs: Path) -> Any:
    (inputs / "photos").mkdir()
    (inputs / "photos" / "bad.png").write_bytes(b"no picture")
    return _embed(inputs, ".npy", "--features", "cls,patch")


@job
def embed_npz(inputs: Path) -> Any:
    return _embed(inputs, ".npz")


@job
def embed_parquet(inputs: Path) -> Any:
    return _embed(inputs, ".parquet", "--thumbnails")


@job
def embed_csv(inputs: Path) -> Any:
    return _embed(inputs, ".csv")


@job
def embed_safetensors(inputs: Path) -> Any:
    return _embed(inputs, ".safetensors")


def _over(turn: str) -> list[str]:
    return [] if turn == FIRST else ["--overwrite"]


@job
def knn(inputs: Path) -> Any:
    work, _ = _embed(inputs, ".npy")
    forked(lambda: work(inputs, FIRST), inputs / "log")

    def classify(place: Path, turn: str) -> None:
        words = [
            "knn",
            inputs / "photos",
            "--index",
            inputs / "feats.npy",
            "-k",
            3,
            "--device",
            "cpu",
        ]
        dino(*words, "--workers", 0, "-o", place / "predictions.csv", *_over(turn))

    return classify, contents


@job
def pca(inputs: Path) -> Any:
    weights = _photos(inputs, 4)

    def work(place: Path, turn: str) -> None:
        words = ["pca", inputs / "photos", "--weights", weights, "--device", "cpu", "--html"]
        dino(*words, "--workers", 1, "-o", place / "colours", *_over(turn))

    return work, contents


@job
def report(inputs: Path) -> Any:
    work, _ = train(inputs)
    forked(lambda: work(inputs, FIRST), inputs / "log")

    def page(place: Path, turn: str) -> None:
        dino("report", inputs / "run", "-o", place / "page.html", *_over(turn))

    return page, contents


@job
def attention(inputs: Path) -> Any:
    weights = _photos(inputs, 12)

    def work(place: Path, turn: str) -> None:
        words = ["attention", inputs / "photos", "--weights", weights, "--workers", 1]
        words += ["--device", "cpu", "--format", "pictures,coco", "--html", *_over(turn)]
        dino(*words, "-o", place / "maps")

    return work, contents


def _export(inputs: Path, name: str) -> Any:
    weights = _photos(inputs, 1)

    def work(place: Path, turn: str) -> None:
        dino("export", weights, "-o", place / name, *_over(turn))

    return work, contents


@job
def export_timm(inputs: Path) -> Any:
    return _export(inputs, "a.safetensors")


@job
def export_reference(inputs: Path) -> Any:
    return _export(inputs, "a.pth")


@job
def export_huggingface(inputs: Path) -> Any:
    return _export(inputs, "folder")


@job
def fetch(inputs: Path) -> Any:
    content = random.Random(0).randbytes(3_000_000)
    (inputs / "big.pth").write_bytes(content)
    server = HTTPServer(("127.0.0.1", 0), _serving(content))
    address = f"http://127.0.0.1:{server.server_port}/big.pth"
    if (child := os.fork()) == 0:
        server.serve_forever()
    CHILDREN.append(child)
    server.socket.close()
    digest = hashlib.sha256(content).hexdigest()

    def work(place: Path, turn: str) -> None:
        os.environ |= {"TORCH_HOME": str(place), "no_proxy": "127.0.0.1"}
        try:
            download(address, digest, Reporter())
        except TaskError as error:
            print(f"dino: error: {error}")  # noqa: T201
            sys.exit(1)

    def compared(place: Path) -> Any:  # the digest is noted where that can be done
        return {n: h for n, h in contents(place).items() if not n.endswith(".sha256")}

    return work, compared


CHILDREN: list[int] = []


def _serving(content: bytes) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            wanted = self.headers.get("Range", "bytes=0-")
            start = int(wanted.removeprefix("bytes=").split("-")[0])
            self.send_response(206 if "Range" in self.headers else 200)
            self.send_header("ETag", '"one"')
            self.send_header("Accept-Ranges", "bytes")
            if "Range" in self.headers:
                rest = f"bytes {start}-{len(content) - 1}/{len(content)}"
                self.send_header("Content-Range", rest)
            self.send_header("Content-Length", str(len(content) - start))
            self.end_headers()
            with contextlib.suppress(OSError):
                for at in range(start, len(content), 65536):
                    self.wfile.write(content[at : min(at + 65536, len(content))])
                    time.sleep(0.01)

        def log_message(self, *_: Any) -> None:
            pass

    return Handler


@job
def train(inputs: Path) -> Any:
    for i in range(24):
        photo(inputs / "photos" / f"{i:02}.png", size=(24, 20), seed=i)
    (inputs / "small.toml").write_text(TRAIN)

    def work(place: Path, turn: str) -> None:
        if turn != FIRST and (place / "run" / "config.json").is_file():
            dino("train", "--resume", place / "run")
        else:
            words = ("train", inputs / "photos", "--config", inputs / "small.toml")
            dino(*words, "-o", place / "run")

    def compared(place: Path) -> Any:
        run = place / "run"
        losses = {e["step"]: e["loss"] for e in Log.read(run / "log.jsonl") if "step" in e}
        kept = {n: h for n, h in contents(run).items() if n.endswith((".safetensors", ".npz"))}
        names = {n: "" for n in contents(run) if not n.startswith("events.")}
        return {"losses": losses, "step0": min(losses), **kept, **names}

    return work, compared
