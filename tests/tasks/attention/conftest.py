from collections.abc import Callable
from pathlib import Path

import pytest
from small_vit import invoke
from typer.testing import Result


@pytest.fixture
def attention(
    small_vit_weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Result]:
    """`dino attention` in an empty folder, by the small network unless another is named."""
    monkeypatch.chdir(tmp_path)

    def command(*arguments: object, code: int = 0) -> Result:
        given = [] if "--weights" in arguments else ["--weights", small_vit_weights]
        return invoke("attention", *arguments, *given, code=code)

    return command
