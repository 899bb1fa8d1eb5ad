"""`import dino_cli`: what it offers, at which cost, and as the README uses it."""

import inspect
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import dino_cli
from dino_cli.cli.app import app

PUBLIC = {
    "Features", "Masks", "Model", "Neighbors", "attention_masks", "embed", "knn", "load_model",
}  # fmt: skip


def test_the_surface() -> None:
    assert set(dino_cli.__all__) == PUBLIC | {"__version__"}
    assert set(dir(dino_cli)) >= PUBLIC
    for name in PUBLIC:
        assert inspect.getdoc(getattr(dino_cli, name))
    for name in ("attention_masks", "embed", "knn", "load_model"):
        signature = inspect.signature(getattr(dino_cli, name))
        assert signature.return_annotation is not inspect.Signature.empty
        assert all(p.annotation is not p.empty for p in signature.parameters.values())
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = dino_cli.nothing


def test_the_import_costs_nothing() -> None:
    code = "import sys, dino_cli; print([m for m in ('torch', 'numpy', 'PIL') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_load_model_asks_for_all_that_it_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dino_cli.library.model.open_model", lambda options, _: options)
    given = {
        "weights": Path("w.pth"), "device": "cuda:1", "precision": "fp16", "arch": "vit_small",
        "patch_size": 8, "heads": 3, "checkpoint_key": "student", "offline": True,
    }  # fmt: skip
    options: Any = dino_cli.load_model("dino_vits8", **given)  # type: ignore[arg-type]
    assert {name: getattr(options, name) for name in given} == given
    assert options.model == "dino_vits8"


@pytest.mark.slow
def test_the_readme_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The lines of Python in the README, on drawn images as it says before."""
    readme = (Path(__file__).parents[2] / "README.md").read_text()
    blocks = re.findall(r"^```python\n(.*?)^```", readme, re.MULTILINE | re.DOTALL)
    blocks = [block for block in blocks if "dino_cli" in block]  # the others are for viewers
    assert blocks
    monkeypatch.chdir(tmp_path)
    draw = ["demo", "--images", "drawn", "--count", "40", "--seed", "7"]
    assert CliRunner().invoke(app, draw).exit_code == 0
    for block in blocks:
        exec(compile(block, "README.md", "exec"), {})
