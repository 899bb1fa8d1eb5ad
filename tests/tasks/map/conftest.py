"""A feature file of twelve photos of three colours, of any format."""

from pathlib import Path
from typing import Any

import pytest
from in_process import dino


@pytest.fixture
def embed(photos: Path, tiny_weights: Path, tmp_path: Path) -> Any:
    def make(name: str, *options: str) -> Path:
        fixed = ["--weights", tiny_weights, "--device", "cpu", "--workers", 0, "--quiet"]
        fixed += ["--resize", 64, "--crop", 48]
        dino("embed", photos, "-o", tmp_path / name, *fixed, *options)
        return tmp_path / name

    return make
