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
