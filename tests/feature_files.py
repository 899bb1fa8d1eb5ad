"""Feature files written plainly, as any program could."""

import csv
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np


def write_features(
    path: Path, vectors: np.ndarray, rows: Sequence[tuple[str, str]], **facts: object
) -> Path:
    """x.npy of float32 (N, D) `vectors`, x.csv of N pairs of path and label, x.json of `facts`."""
    np.save(path, vectors.astype(np.float32))
    with path.with_suffix(".csv").open("w", newline="", errors="surrogateescape") as file:
        csv.writer(file, lineterminator="\n").writerows([("path", "label"), *rows])
    path.with_suffix(".json").write_text(json.dumps({"format": 1, **facts}))
    return path


MADE = {
    "model": "m",
    "weights": "m.pth",
    "weights_sha256": "ab" * 32,
    "features": "cls",
    "preprocessing": {"resize": 256, "crop": 224},
}


def write_index(path: Path, vectors: np.ndarray, labels: list[str], **changes: object) -> Path:
    """As `write_features`, of a made-up model."""
    facts = {**MADE, "dim": vectors.shape[1], **changes}
    rows = [(f"{path.stem}/{i}.jpg", label) for i, label in enumerate(labels)]
    return write_features(path, vectors, rows, **facts)


def clusters(
    rows: int, seed: int, *, classes: int = 5, spread: float = 0.9
) -> tuple[np.ndarray, list[str]]:
    """Vectors (rows, 8) around one centre for each class, the same centres for every seed."""
    centres = np.random.default_rng(99).normal(size=(classes, 8))
    rng = np.random.default_rng(seed)
    numbers = rng.integers(0, classes, rows)
    return centres[numbers] + spread * rng.normal(size=(rows, 8)), [f"c{i}" for i in numbers]


def export_files(folder: Path, stem: str) -> dict[str, bytes]:
    """Content by name, without the stem; the paths inside do not depend on it."""
    found = {p.name.removeprefix(stem): p for p in folder.iterdir() if p.name.startswith(stem)}
    return {name: path.read_bytes() for name, path in found.items() if path.is_file()}
