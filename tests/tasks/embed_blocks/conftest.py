"""A tiny network for exports that are interrupted or grow, and how much it computes."""

from pathlib import Path
from typing import Any

import pytest

from dino_cli.core.network.features import Extractor


@pytest.fixture
def fixed(tiny_weights: Path) -> list[object]:
    return [
        "--weights", tiny_weights, "--device", "cpu", "--precision", "fp32", "--workers", 0,
        "--resize", 64, "--crop", 48, "--quiet", "--batch-size", 1,
    ]  # fmt: skip


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many pictures each forward pass had."""
    passes: list[int] = []
    real = Extractor.__call__

    def count(self: Extractor, x: Any, **options: Any) -> Any:
        passes.append(len(x))
        return real(self, x, **options)

    monkeypatch.setattr(Extractor, "__call__", count)
    return passes
