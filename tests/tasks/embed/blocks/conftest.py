"""A tiny network for exports that are interrupted or grow, and how much it computes."""

from typing import Any

import pytest

from dino_cli.core.network.features import Extractor


@pytest.fixture
def fixed(fixed: list[object]) -> list[object]:
    return [*fixed, "--batch-size", 1]


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
