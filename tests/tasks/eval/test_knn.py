"""`dino eval knn` through the command line: the same as `dino embed` and `dino knn`."""

import csv
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from feature_files import write_index
from typer.testing import CliRunner, Result

from dino_cli.cli.app import app


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [*map(str, arguments)])


def evaluate(weights: Path, *arguments: object) -> dict[str, Any]:
    model = ["--weights", weights, "--precision", "fp32", "--device", "cpu"]
    result = run("eval", "knn", *arguments, *model, "--workers", 0, "--json", "-q")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)  # type: ignore[no-any-return]


@pytest.fixture
def val(photos: Path) -> Path:
    """The last photo of each class moved to another folder."""
    for name in ("blue", "green", "red"):
        (photos.parent / "val" / name).mkdir(parents=True)
        (photos / name / "3.png").rename(photos.parent / "val" / name / "3.png")
    return photos.parent / "val"


def test_the_figures_of_dino_knn(
    photos: Path, val: Path, tiny_weights: Path, tmp_path: Path
) -> None:
    out = tmp_path / "report"
    asked = ["-k", 2, "-k", 5, "--temperature", 0.07, "--temperature", 0.5]
    result = evaluate(tiny_weights, photos, val, *asked, "-o", out)
    assert (result["queries"], result["index"], result["temperature"]) == (3, 9, 0.07)
    assert list(result["temperatures"]) == ["0.07", "0.5"]
    assert result["temperatures"]["0.07"] == result["k"]
    for temperature, expected in result["temperatures"].items():
        same = run(
            "knn", out / "val.npy", "--index", out / "train.npy", "-k", 2, "-k", 5,
            "--temperature", temperature, "--json", "-q",
        )  # fmt: skip
        assert json.loads(same.stdout)["k"] == expected
    assert result["best"]["top1"] == max(
        row["top1"] for k in result["temperatures"].values() for row in k.values()
    )
    stored = json.loads((out / "result.json").read_text())
    assert stored["k"] == result["k"]
    page = (out / "index.html").read_text()
    assert "DINO ViT-S/16" in page
    assert "74.5" in page
    assert "http" not in page.replace("http-equiv", "")

    # Three queries, so all are shown, in the order of their classes' votes at the first k: 2.
    shares = [one["share"] for one in result["examples"]]
    assert shares == sorted(shares, reverse=True)
    assert {one["path"] for one in result["examples"]} == {str(p) for p in val.glob("*/*.png")}
    near = ["knn", out / "val.npy", "--index", out / "train.npy", "-k", 2, "--temperature", 0.07]
    run(*near, "--neighbors", 5, "-o", tmp_path / "near.csv", "-q")
    with (tmp_path / "near.csv").open() as file:
        predicted = {row["path"]: row for row in csv.DictReader(file)}
    for one in result["examples"]:
        row = predicted[one["path"]]
        assert Path(one["path"]).parent.name == one["label"]
        assert [n["path"] for n in one["nearest"]] == [row[f"neighbor{i}"] for i in range(1, 6)]
        if row["predicted"] == one["label"]:
            assert one["share"] == pytest.approx(float(row["probability"]), rel=1e-5)
        else:
            assert one["share"] <= 0.5
        assert all(Path(n["path"]).parent.name == n["label"] for n in one["nearest"])
    assert page.count("<img") == 3 * 6

    again = evaluate(tiny_weights, out / "train.npy", out / "val.npy", *asked)
    assert again["temperatures"] == result["temperatures"]


def test_of_equals_the_best_is_what_was_asked_for_first(tmp_path: Path) -> None:
    train = write_index(tmp_path / "train.npy", np.eye(4)[[0, 1] * 6], ["a", "b"] * 6)
    val = write_index(tmp_path / "val.npy", np.eye(4)[[0, 1]], ["a", "b"])
    asked = ["-k", 12, "-k", 2, "--temperature", 0.07, "--temperature", 0.2]
    result = json.loads(run("eval", "knn", train, val, *asked, "--json").stdout)
    assert result["best"] == {"k": 12, "temperature": 0.07, "top1": 100.0}


def test_k_is_clamped_with_a_remark(tmp_path: Path) -> None:
    train = write_index(tmp_path / "train.npy", np.eye(4)[[0, 1] * 6], ["a", "b"] * 6)
    val = write_index(tmp_path / "val.npy", np.eye(4)[[0, 1]], ["a", "b"])
    result = run("eval", "knn", train, val, "-k", 2, "-k", 200, "--temperature", 0.07, "--json")
    assert list(json.loads(result.stdout)["k"]) == ["2", "12"]
    assert result.stderr.count("k=200 but the index has 12 images; using 12\n") == 1


def test_without_output_nothing_is_written(
    photos: Path, val: Path, tiny_weights: Path, tmp_path: Path
) -> None:
    before = sorted(os.listdir(tmp_path))
    result = evaluate(tiny_weights, photos, val, "-k", 3)
    assert list(result["k"]) == ["3"]
    assert sorted(os.listdir(tmp_path)) == before


def test_misuse_is_a_sentence(photos: Path, val: Path, tiny_weights: Path, tmp_path: Path) -> None:
    def fails(code: int, *arguments: object) -> str:
        model = ["--weights", tiny_weights, "--device", "cpu"]
        result = run("eval", "knn", *arguments, *model)
        assert result.exit_code == code, result.output
        assert "Traceback" not in result.stderr
        return result.stderr.splitlines()[-1]

    before = sorted(os.listdir(tmp_path))
    assert "have no classes" in fails(1, photos / "red", val)
    assert "is a class of" in fails(1, photos, photos.parent)
    assert "does not exist" in fails(1, photos, tmp_path / "gone")
    assert "k=0 is not" in fails(2, photos, val, "-k", 0)
    assert "temperature -1" in fails(2, photos, val, "--temperature", -1)
    assert "does not exist" in fails(1, photos, val, "-o", tmp_path / "no/such")
    (tmp_path / "report").mkdir()
    (tmp_path / "report/train.npy").write_bytes(b"mine")
    assert "already exists" in fails(1, photos, val, "-o", tmp_path / "report")
    assert sorted(os.listdir(tmp_path)) == sorted([*before, "report"])


@pytest.mark.parametrize("suffix", ["npz", "safetensors", "csv", "parquet"])
def test_features_in_any_format(
    photos: Path, val: Path, tiny_weights: Path, tmp_path: Path, suffix: str
) -> None:
    if suffix == "parquet":
        pytest.importorskip("pyarrow")
    files = [tmp_path / f"{name}.{suffix}" for name in ("train", "val")]
    for folder, output in zip((photos, val), files, strict=True):
        made = run(
            "embed", folder, "-o", output, "--weights", tiny_weights, "--precision", "fp32",
            "--device", "cpu", "--workers", 0, "-q",
        )  # fmt: skip
        assert made.exit_code == 0, made.output
    result = evaluate(tiny_weights, *files, "-k", 3)
    assert (result["queries"], result["index"]) == (3, 9)
    assert result["k"] == evaluate(tiny_weights, photos, files[1], "-k", 3)["k"]


@pytest.mark.parametrize("kept", [False, True])
def test_ctrl_c_promises_nothing_that_is_gone(
    photos: Path,
    val: Path,
    tiny_weights: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    kept: bool,
) -> None:
    """The features were on their way to a folder that goes, and there is no --resume."""

    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("dino_cli.tasks.embed.run.embed_share", interrupt)
    output = ["-o", tmp_path / "report"] if kept else []
    model = ["--weights", tiny_weights, "--device", "cpu", "-q"]
    done = run("eval", "knn", photos, val, *model, *output)
    assert (done.exit_code, done.stdout) == (130, "")
    assert done.stderr == "dino: interrupted; nothing was kept\n"
    assert not (tmp_path / "report").exists()
    assert [path for path in tmp_path.iterdir() if path.name.startswith(".")] == []
