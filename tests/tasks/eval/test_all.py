"""`dino eval all`: several evaluations, one page."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner, Result

from dino_cli.cli.app import app
from dino_cli.tasks.eval.all import EVALUATIONS
from dino_cli.tasks.eval.published import PUBLISHED

COMMON = ["--device", "cpu", "--precision", "fp32", "--workers", "1"]
SETS = """
[knn.first]
train = "photos"
val = "photos"
k = [3]

[knn.second]
train = "photos"
val = "photos"
k = [5]
temperature = [0.1]

[linear]
train = "photos"
val = "photos"
fast = true
epochs = 2

[segmentation]
images = "photos"
masks = "masks"
image-size = "64x64"
"""


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["eval", "all", *map(str, arguments), *COMMON])


@pytest.fixture
def sets(photos: Path) -> Path:
    """A file of data sets beside photos/ and masks/."""
    folder = photos.parent
    for path in photos.glob("*/*.png"):
        mask = np.zeros(np.asarray(Image.open(path)).shape[:2], np.uint8)
        mask[10:30, 10:30] = 255
        out = folder / "masks" / path.relative_to(photos)
        out.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(mask).save(out)
    (folder / "sets.toml").write_text(SETS)
    return folder / "sets.toml"


def test_one_page_with_every_table(sets: Path, tiny_weights: Path, tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    result = run(tiny_weights, "--config", sets, "-o", page, "--json", "-q")
    assert result.exit_code == 0, result.output
    printed: dict[str, Any] = json.loads(result.stdout)
    assert list(printed["results"]) == ["knn.first", "knn.second", "linear", "segmentation"]
    stored = json.loads((tmp_path / "report.json").read_text())
    assert stored == printed["results"]
    assert list(stored["knn.first"]["k"]) == ["3"]
    assert stored["knn.second"]["temperature"] == 0.1

    alone = ["eval", "knn", tmp_path / "photos", tmp_path / "photos", "-k", "3", "--json", "-q"]
    one = CliRunner().invoke(app, [*map(str, [*alone, "--weights", tiny_weights]), *COMMON])
    assert json.loads(one.stdout)["temperatures"] == stored["knn.first"]["temperatures"]

    text = page.read_text()
    titles = [PUBLISHED[name].title for name in ("knn", "linear", "segmentation")]
    places = [text.index(f"{title}") for title in titles]
    assert places == sorted(places)
    for figure in ("74.5", "77.0", "45.9", "TokenCut", "k-NN classification: second"):
        assert figure in text
    assert f"{100 * stored['segmentation']['jaccard']['best']:.1f}" in text
    assert "http" not in text.replace("http-equiv", "")  # asks nobody for anything
    assert "<script" not in text


def test_the_page_escapes_what_it_shows(
    sets: Path, photos: Path, tiny_weights: Path, tmp_path: Path
) -> None:
    (photos / "red").rename(photos / "<b>red")
    sets.write_text('[linear]\ntrain = "photos"\nval = "photos"\nfast = true\nepochs = 1\n')
    result = run(tiny_weights, "--config", sets, "-o", tmp_path / "r.html")
    assert result.exit_code == 0, result.output
    text = (tmp_path / "r.html").read_text()
    assert "&lt;b&gt;red" in text
    assert "<b>red" not in text


def test_one_that_fails_does_not_take_the_others_along(
    sets: Path, photos: Path, tiny_weights: Path, tmp_path: Path
) -> None:
    (tmp_path / "flat").mkdir()
    Image.open(photos / "red/0.png").save(tmp_path / "flat/0.png")
    sets.write_text(
        '[knn]\ntrain = "flat"\nval = "photos"\n'
        '[linear]\ntrain = "photos"\nval = "photos"\nfast = true\nepochs = 1\n'
    )
    result = run(tiny_weights, "--config", sets, "-o", tmp_path / "r.html", "--json")
    assert result.exit_code == 1
    assert "1 of 2 evaluations failed" in result.stderr
    assert "have no classes" in result.stderr.splitlines()[-1]
    stored = json.loads((tmp_path / "r.json").read_text())
    assert "have no classes" in stored["knn"]["error"]
    assert "top1" in stored["linear"]
    assert json.loads(result.stdout) == {"output": str(tmp_path / "r.html"), "results": stored}
    assert "Not measured:" in (tmp_path / "r.html").read_text()

    sets.write_text('[knn]\ntrain = "flat"\nval = "photos"\n')
    before = sorted(os.listdir(tmp_path))
    result = run(tiny_weights, "--config", sets, "-o", tmp_path / "none.html")
    assert result.exit_code == 1
    assert "no evaluation succeeded" in result.stderr
    assert sorted(os.listdir(tmp_path)) == before


def test_given_linear_weights_are_judged(
    sets: Path, photos: Path, tiny_weights: Path, make_weights: Any, tmp_path: Path
) -> None:
    """The file names them relative to itself; released ones know no network, ours name theirs."""
    (tmp_path / "given").mkdir()
    layer = {"linear.weight": torch.zeros(3, 64), "linear.bias": torch.tensor([0.0, 1, 0])}
    torch.save(layer, tmp_path / "given/linear.pth")
    sets.write_text('[linear]\nval = "photos"\nclassifier = "given/linear.pth"\n')
    result = run(tiny_weights, "--config", sets, "-o", tmp_path / "r.html", "--json")
    assert result.exit_code == 0, result.output
    judged = json.loads(result.stdout)["results"]["linear"]
    shares = {name: row["top1"] for name, row in judged["per_class"].items()}
    assert sorted(shares.values()) == [0, 0, 1]

    own = ["eval", "linear", photos, photos, "--weights", tiny_weights, "--fast", "--epochs", "1"]
    own += ["-o", tmp_path / "own", *COMMON]
    assert CliRunner().invoke(app, [*map(str, own)]).exit_code == 0
    sets.write_text('[linear]\nval = "photos"\nclassifier = "own/classifier.safetensors"\n')
    out = ["--config", sets, "-o", tmp_path / "r.html", "--overwrite"]
    assert run(tiny_weights, *out).exit_code == 0
    other = make_weights(tmp_path / "other.safetensors", seed=5)
    assert "was trained on features of" in run(other, *out).stderr


def test_mistakes_are_found_before_anything_runs(
    sets: Path, tiny_weights: Path, tmp_path: Path
) -> None:
    def fails(code: int, text: str, *arguments: object) -> str:
        sets.write_text(text)
        out = ["--config", sets, "-o", tmp_path / "r.html"]
        result = run(tiny_weights, *out, *arguments)
        assert result.exit_code == code, result.output
        assert "Traceback" not in result.stderr
        assert len(result.stderr.splitlines()) == 1  # no stage began
        return result.stderr

    before = sorted(os.listdir(tmp_path))
    both = 'train = "photos"\nval = "photos"\n'
    assert "did you mean [knn]?" in fails(2, "[kn]\n" + both)
    assert "did you mean 'train'?" in fails(2, f"[knn]\n{both}trein = 3\n")
    assert "lacks 'val' in [knn]" in fails(2, '[knn]\ntrain = "photos"\n')
    assert "lacks 'val' in [linear]" in fails(2, '[linear]\ntrain = "photos"\n')
    assert "'output' in [knn], which is not an option" in fails(2, f'[knn]\n{both}output = "x"\n')
    assert "'weights' in [knn]" in fails(2, f'[knn]\n{both}weights = "x"\n')
    assert "sets k to 'many'" in fails(2, f'[knn.a]\n{both}k = "many"\n')
    assert "gone', which" in fails(1, '[video]\nroot = "gone"\n')
    assert "names no data" in fails(2, "")
    assert "is not a TOML file" in fails(1, "[knn\n")
    assert "is not an .html file" in fails(2, "[knn]\n" + both, "-o", tmp_path / "r.txt")
    assert sorted(os.listdir(tmp_path)) == before
    result = run(tmp_path / "no.pth", "--config", sets, "-o", tmp_path / "r.html")
    assert result.exit_code == 1
    assert "no.pth' does not exist" in result.stderr


def test_every_evaluation_has_its_published_figures() -> None:
    assert set(EVALUATIONS) == set(PUBLISHED)
    for published in PUBLISHED.values():
        for row in published.rows:
            assert set(row.figures) <= set(published.columns)
            assert all(10 < value < 90 for value in row.figures.values())
