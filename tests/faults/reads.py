"""What commands read: for each kind a function that makes good files, and says what reads them."""

import argparse
import io
import json
import os
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file
from small_run import small_config
from small_vit import photo, write_small_vit
from typer.testing import CliRunner

from dino_cli.cli.app import app
from dino_cli.core.network.architecture import VitArchitecture
from dino_cli.core.network.vit import build_vit
from dino_cli.data.decoding.decode import UnreadableImage, read_image
from dino_cli.data.listing import shards
from dino_cli.data.listing.images import find_images
from dino_cli.store.embeddings.blocks import Blocks
from dino_cli.store.weights.load import load
from dino_cli.tasks.eval.linear import training as linear_training

HEAD64 = VitArchitecture(width=64, depth=1, heads=1, patch_size=16, grid=(4, 4))
TRAIN = small_config(
    depth=1, out_dim=32, head_hidden=32, global_size=16, local_size=8, local_crops_number=1, watch=2
)

# Returns the files that may be damaged, and what reads them.
Reader = Callable[[Path], tuple[list[Path], Callable[[], Any]]]
READERS: dict[str, Reader] = {}


def reader(make: Reader) -> Reader:
    READERS[make.__name__] = make
    return make


def command(*words: object) -> None:
    """`dino …` in this process; raises what reaches a person as a traceback."""
    result = CliRunner().invoke(app, [str(word) for word in words])
    error = result.exception
    if error is not None and not isinstance(error, SystemExit):
        raise error
    if result.exit_code:
        said = [line for line in result.stderr.splitlines() if line.startswith("dino: error: ")]
        usage = result.exit_code == 2 and "─ Error ─" in result.stderr  # told by Typer, in a box
        assert len(said) == 1 or usage, result.output
        raise Told(said[0] if said else result.stderr)


class Killed(Exception):
    """Stands for a SIGKILL at that place."""


class Told(Exception):
    """One sentence on stderr and an exit code."""


def tensors() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return build_vit(HEAD64).state_dict()


def _load(path: Path) -> Callable[[], Any]:
    return lambda: load(model="", weights=path)


@reader
def pth(folder: Path) -> Any:
    torch.save(tensors(), folder / "w.pth")
    return [folder / "w.pth"], _load(folder / "w.pth")


@reader
def pth_legacy(folder: Path) -> Any:
    torch.save(tensors(), folder / "w.pth", _use_new_zipfile_serialization=False)
    return [folder / "w.pth"], _load(folder / "w.pth")


@reader
def pth_checkpoint(folder: Path) -> Any:
    names = {f"module.backbone.{name}": tensor for name, tensor in tensors().items()}
    content = {"teacher": names, "student": names, "args": argparse.Namespace(arch="vit_small")}
    torch.save({**content, "epoch": 3}, folder / "checkpoint.pth")
    return [folder / "checkpoint.pth"], _load(folder / "checkpoint.pth")


@reader
def safetensors(folder: Path) -> Any:
    save_file(tensors(), folder / "w.safetensors")
    return [folder / "w.safetensors"], _load(folder / "w.safetensors")


@reader
def own_weights(folder: Path) -> Any:
    path = write_small_vit(folder / "w.safetensors")
    return [path], _load(path)


@reader
def huggingface(folder: Path) -> Any:
    named = tensors()
    half = len(named) // 2
    parts = {"pytorch_model-1.bin": list(named)[:half], "pytorch_model-2.bin": list(named)[half:]}
    for file, names in parts.items():
        torch.save({name: named[name] for name in names}, folder / file)
    index = {"weight_map": {name: file for file, names in parts.items() for name in names}}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"metadata": {}, **index}))
    config = {"model_type": "vit", "hidden_size": 64, "num_attention_heads": 1, "patch_size": 16}
    (folder / "config.json").write_text(json.dumps({**config, "layer_norm_eps": 1e-12}))
    size = {"height": 224, "width": 224}
    looks = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3, "size": size, "do_resize": True}
    (folder / "preprocessor_config.json").write_text(json.dumps(looks))
    return sorted(folder.iterdir()), _load(folder)


@reader
def inspect(folder: Path) -> Any:
    torch.save(tensors(), folder / "w.pth")
    save_file(tensors(), folder / "w.safetensors")
    both = [folder / "w.pth", folder / "w.safetensors"]
    return both, lambda: [command("weights", "inspect", path) for path in both]


def _features(folder: Path, suffix: str) -> Any:
    for i in range(6):
        photo(folder / "photos" / "ab"[i % 2] / f"{i}.png", seed=i)
    weights = write_small_vit(folder / "w.safetensors")
    output = folder / f"feats{suffix}"
    command("embed", folder / "photos", "--weights", weights, "-o", output, "--workers", 0)
    victims = [p for p in sorted(folder.glob("feats*")) if not p.name.endswith(".sources")]
    return victims, lambda: command("knn", "--index", output, "-k", 2, "--json")


@reader
def feats_npy(folder: Path) -> Any:
    return _features(folder, ".npy")


@reader
def feats_npz(folder: Path) -> Any:
    return _features(folder, ".npz")


@reader
def feats_safetensors(folder: Path) -> Any:
    return _features(folder, ".safetensors")


@reader
def feats_csv(folder: Path) -> Any:
    return _features(folder, ".csv")


@reader
def feats_parquet(folder: Path) -> Any:
    return _features(folder, ".parquet")


@reader
def knn_queries(folder: Path) -> Any:
    """What the index tells of its network and preprocessing, for pictures to be classified."""
    _features(folder, ".npy")
    words = ("knn", folder / "photos", "--index", folder / "feats.npy", "-k", 2, "--json")
    words = (*words, "--workers", 0, "--device", "cpu", "--offline")
    return [folder / "feats.json"], lambda: command(*words)


@reader
def embed_own_weights(folder: Path) -> Any:
    photo(folder / "photos" / "a.png")
    weights = write_small_vit(folder / "w.safetensors")
    words = ("embed", folder / "photos", "--weights", weights, "-o", folder / "f.npy")
    words = (*words, "--overwrite", "--workers", 0, "--device", "cpu")
    about = folder / "about.json"  # alone: damage to the tensors is another reader's
    with safe_open(weights, "pt") as file:
        about.write_text(file.metadata()["dino"])
        held = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118

    def read() -> None:
        save_file(held, weights, metadata={"dino": about.read_text(errors="replace")})
        command(*words)

    return [about], read


@reader
def embed_append(folder: Path) -> Any:
    victims, _ = _features(folder, ".npy")
    photo(folder / "photos" / "a" / "new.png", seed=9)
    words = ("embed", folder / "photos", "--weights", folder / "w.safetensors", "--append")
    words = (*words, "-o", folder / "feats.npy", "--workers", 0)
    return [*victims, folder / "feats.npy.sources"], lambda: command(*words)


@reader
def embed_resume(folder: Path) -> Any:
    for i in range(6):
        photo(folder / "photos" / "ab"[i % 2] / f"{i}.png", seed=i)
    weights = write_small_vit(folder / "w.safetensors")
    words = ("embed", folder / "photos", "--weights", weights, "-o", folder / "feats.npy")
    words = (*words, "--workers", 0, "--batch-size", 2)
    with (
        mock.patch.object(Blocks, "publish", side_effect=Killed),
        mock.patch.object(Blocks, "remove"),
    ):
        CliRunner().invoke(app, [*map(str, words)])
    victims = sorted((folder / "feats.npy.part").glob("*.*"))
    assert len(victims) > 1
    return victims, lambda: command(*words, "--resume")


@reader
def classifier(folder: Path) -> Any:
    from dino_cli.store.classifier import Classifier, read_classifier, write_classifier

    facts = {"classes": ["a", "b"], "n_last_blocks": 4, "avgpool": False}
    path = folder / "classifier.safetensors"
    write_classifier(path, Classifier(torch.ones(2, 24), torch.zeros(2), facts))
    return [path], lambda: read_classifier(path)


def _run_folder(folder: Path) -> Path:
    for i in range(16):
        photo(folder / "photos" / f"{i}.png", size=(24, 20), seed=i)
    (folder / "small.toml").write_text(TRAIN)
    run = folder / "run"
    words = ("train", folder / "photos", "--config", folder / "small.toml", "-o", run)
    command(*words, "--max-steps", 4, "--save-every", 1)
    return run


@reader
def train_resume(folder: Path) -> Any:
    run = _run_folder(folder)
    files = [run / "checkpoint.pt", run / "config.json", run / "log.jsonl"]
    return files, lambda: command("train", "--resume", run, "--max-steps", 6)


@reader
def report(folder: Path) -> Any:
    run = _run_folder(folder)
    files = [run / "config.json", run / "log.jsonl", run / "log.jsonl"]
    files += sorted((run / "watch").iterdir())
    return files, lambda: command("report", run, "--overwrite")


@reader
def run_as_weights(folder: Path) -> Any:
    run = _run_folder(folder)
    (run / "teacher.safetensors").unlink()
    return [run / "checkpoint.pt", run / "config.json"], _load(run)


@reader
def config_toml(folder: Path) -> Any:
    photo(folder / "photos" / "0.png")
    (folder / "small.toml").write_text(TRAIN)
    words = ("train", folder / "photos", "--config", folder / "small.toml", "--dry-run")
    return [folder / "small.toml"], lambda: command(*words)


def _shard(folder: Path, count: int) -> Path:
    """A tar of pictures in two classes, with texts beside them and another name for one."""
    content = photo(folder / "seed.png", size=(24, 20)).read_bytes()
    path = folder / "shard.tar"
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as tar:
        for i in range(count):
            beside = (f"{i:03}.png", content), (f"{i:03}.cls", b"ab"[i % 2 : i % 2 + 1])
            for name, data in beside if i else (("é" * 120 + ".png", content),):
                member = tarfile.TarInfo(name)
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
        other = tarfile.TarInfo("other.png")
        other.type, other.linkname = tarfile.LNKTYPE, "001.png"
        tar.addfile(other)
    return path


def _read_shard(path: Path) -> None:
    shards._opened.clear()
    for file in find_images([str(path)]):
        try:
            read_image(file.path)
        except UnreadableImage:
            continue


@reader
def shard(folder: Path) -> Any:
    path = _shard(folder, 6)
    return [path], lambda: _read_shard(path)


@reader
def shard_index(folder: Path) -> Any:
    path = _shard(folder, 110)

    def read() -> None:  # the tar itself is whole: its pictures are found whatever the index says
        with mock.patch.dict(os.environ, {"DINO_CACHE": str(folder / "cache")}):
            shards._opened.clear()
            assert len(find_images([str(path)])) == 111

    read()
    return list((folder / "cache" / "index").iterdir()), read


@reader
def linear_resume(folder: Path) -> Any:
    for i in range(8):
        photo(folder / "photos" / "ab"[i % 2] / f"{i}.png", seed=i)
    weights = write_small_vit(folder / "w.safetensors")
    words = ("eval", "linear", folder / "photos", folder / "photos", "--weights", weights)
    words = (*words, "--n-last-blocks", 2, "--epochs", 3, "--batch-size", 4, "--lr", 1)
    words = (*words, "--workers", 0, "--device", "cpu", "-o", folder / "out")
    one_epoch, epochs = linear_training._epoch, []

    def stopping(*arguments: Any) -> float:
        epochs.append(1)
        if len(epochs) > 1:
            raise KeyboardInterrupt
        return one_epoch(*arguments)

    with mock.patch.object(linear_training, "_epoch", stopping):
        result = CliRunner().invoke(app, [*map(str, words)])
    assert result.exit_code == 130, result.output
    return [folder / "out" / "checkpoint.pt"], lambda: command(*words, "--resume")


@reader
def picture_list(folder: Path) -> Any:
    lines = [str(photo(folder / "photos" / f"{i}.png", size=(24, 20), seed=i)) for i in range(4)]
    (folder / "list.txt").write_text("\n".join(lines) + "\n")
    weights = write_small_vit(folder / "w.safetensors")
    words = ("embed", folder / "list.txt", "--weights", weights, "--workers", 0, "--overwrite")
    return [folder / "list.txt"], lambda: command(*words, "-o", folder / "feats.npy")


@reader
def pictures(folder: Path) -> Any:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (20, 24, 3), np.uint8))
    files = [
        folder / "photos" / f"0.{s}" for s in ("png", "jpg", "gif", "tif", "webp", "bmp", "ppm")
    ]
    (folder / "photos").mkdir()
    for file in files:
        image.save(file)
    weights = write_small_vit(folder / "w.safetensors")
    words = ("embed", folder / "photos", "--weights", weights, "--workers", 0, "--overwrite")
    return files, lambda: command(*words, "-o", folder / "feats.npy")
