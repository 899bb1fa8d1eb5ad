"""What `dino embed` leaves, goes on with, and what reads it."""

from pathlib import Path
from typing import Any
from unittest import mock

from faults.reads.base import Killed, command, reader
from safetensors import safe_open
from safetensors.torch import save_file
from small_vit import photo, write_small_vit
from typer.testing import CliRunner

from dino_cli.cli.app import app
from dino_cli.store.embeddings.blocks import Blocks


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
