"""Pictures as queries of `dino knn`: the model is opened from what the index tells."""

import csv
import json
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from in_process import dino, knn, refusal
from typer.testing import CliRunner

from dino_cli.cli.app import app


def fails(code: int, *arguments: object) -> str:
    return refusal(code, "knn", *arguments)


@pytest.fixture
def index(photos: Path, tiny_weights: Path, tmp_path: Path) -> Path:
    weights = tmp_path / "own.safetensors"
    shutil.copy(tiny_weights, weights)
    path = tmp_path / "feats.npy"
    dino(
        "embed", photos, "-o", path, "--weights", weights, "--device", "cpu",
        "--precision", "fp32", "--resize", 64, "--crop", 64,
    )  # fmt: skip
    return path


CPU = ("--device", "cpu", "--precision", "fp32")


def test_pictures_are_read_as_the_index_was(
    photos: Path, index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dino_cli.tasks.knn.queries.CHUNK", 5)
    (photos / "red/broken.jpg").write_bytes(b"")
    result = knn(photos, "--index", index, "-k", 1, "-o", tmp_path / "p.csv", *CPU)
    assert result["k"] == {"1": {"top1": 100.0, "top5": 100.0}}
    assert (result["queries"], result["index"], result["skipped"]) == (12, 12, 1)
    with (tmp_path / "p.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    for row in rows:  # every picture finds itself: the same model, preprocessing and order
        assert row["neighbor1"] == row["path"]
        assert float(row["similarity1"]) > 0.99999
        assert row["predicted"] == row["label"] == Path(row["path"]).parent.name
    skipped = (tmp_path / "p.skipped.csv").read_text()
    assert skipped == f"path,reason\n{photos}/red/broken.jpg,empty file\n"


@pytest.mark.parametrize("options", [("--multi-scale",), ("--features", "mean")], ids="".join)
def test_pictures_get_the_features_of_the_index(
    photos: Path, tiny_weights: Path, tmp_path: Path, options: tuple[str, ...]
) -> None:
    path, out = tmp_path / "feats.npy", tmp_path / "p.csv"
    dino("embed", photos, "-o", path, "--weights", tiny_weights, *options, *CPU)
    knn(photos / "red", "--index", path, "-k", 1, "-o", out, *CPU)
    with out.open(newline="") as file:
        assert all(float(row["similarity1"]) > 0.99999 for row in csv.DictReader(file))


def test_a_single_picture(photos: Path, index: Path) -> None:
    picture = photos / "green/2.png"
    result = knn(picture, "--index", index, "-k", 3, *CPU)
    (prediction,) = result["predictions"]
    assert prediction["path"] == str(picture)
    assert prediction["predicted"] == "green"
    assert 0 < prediction["probability"] <= 1
    assert result["k"] == {"3": {"top1": 100.0, "top5": 100.0}}  # the folder names the class


def test_queries_that_the_index_holds_are_told(
    photos: Path,
    index: Path,
    tmp_path: Path,
    tiny_weights: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def told(picture: Path) -> str:
        line = ["knn", str(picture), "--index", str(index), "-k", "3", *map(str, CPU)]
        return CliRunner().invoke(app, line).stderr

    (tmp_path / "copy.png").write_bytes((photos / "green/2.png").read_bytes())
    assert "1 of 1 query is in the index and will find itself" in told(photos / "green/2.png")
    count = len(list(photos.rglob("*.png")))
    assert f"{count} of {count} queries are in the index" in told(photos)
    assert "in the index and" not in told(tmp_path / "copy.png")
    assert f"{count} of {count} queries are in the index" in told(index)  # by their paths
    again = tmp_path / "again.npz"
    sizes = ["--resize", 64, "--crop", 64]
    dino("embed", photos / "red", "-o", again, "--weights", tiny_weights, *sizes, *CPU)
    twice = ["knn", "--index", str(index), "--index", str(again), "-k", "3"]
    told_twice = CliRunner().invoke(app, twice).stderr
    assert f"4 of {count + 4} images are in the index once more and will find" in told_twice
    rest = [photos / "green/2.png", tmp_path / "copy.png"]
    told_one = dino("knn", *rest, "--index", index, "-k", 3, *CPU).stderr
    assert "1 of 2 queries are in the index and will find themselves" in told_one
    monkeypatch.chdir(photos.parent)
    relative = tmp_path / "relative.npz"
    dino("embed", "photos/red", "-o", relative, "--weights", tiny_weights, *sizes, *CPU)
    twice[-3] = str(relative)
    assert f"4 of {count + 4} images are in the index once more" in dino(*twice).stderr
    monkeypatch.chdir(photos)
    assert "1 of 1 query is in the index and will find itself" in told(Path("green/2.png"))


@pytest.mark.parametrize("how", ["folder", "here", "file", "list", "tar"])
def test_the_folder_of_a_picture_is_its_label_where_it_is_a_class(
    photos: Path, index: Path, tmp_path: Path, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    query: list[object] = [photos / "red"]
    if how == "here":
        monkeypatch.chdir(photos / "red")
        query = ["."]
    elif how == "file":
        query = sorted((photos / "red").iterdir())
    elif how == "list":
        (tmp_path / "list.txt").write_text("".join(f"photos/red/{i}.png\n" for i in range(4)))
        query = [tmp_path / "list.txt"]
    elif how == "tar":
        with tarfile.open(tmp_path / "red.tar", "w") as tar:
            tar.add(photos / "red", "red")
        query = [tmp_path / "red.tar/red" / f"{i}.png" for i in range(4)]
    result = knn(*query, "--index", index, "-k", 1)
    assert result["k"] == {"1": {"top1": 100.0, "top5": 100.0}}
    assert [row["predicted"] for row in result["predictions"]] == ["red"] * 4  # as without a label
    dino("knn", *query, "--index", index, "-k", 1, "-o", tmp_path / "p.csv")
    with (tmp_path / "p.csv").open(newline="") as rows:
        assert [row["label"] for row in csv.DictReader(rows)] == ["red"] * 4


def test_a_label_of_a_list_counts_more_than_the_folder(
    photos: Path, index: Path, tmp_path: Path
) -> None:
    (tmp_path / "list.txt").write_text("photos/red/0.png\tblue\nphotos/red/1.png\tred\n")
    result = knn(tmp_path / "list.txt", "--index", index, "-k", 1)
    assert result["k"] == {"1": {"top1": 50.0, "top5": 50.0}}
    assert "predictions" not in result  # the person has given the labels
    (tmp_path / "list.txt").write_text(f"photos/red/0.png\tred\n{tmp_path}/else.png\n")
    (tmp_path / "else.png").write_bytes((photos / "red/1.png").read_bytes())
    assert "predictions" not in knn(tmp_path / "list.txt", "--index", index, "-k", 1)


def test_queries_are_turned_as_the_index_was(
    photos: Path, tiny_weights: Path, tmp_path: Path
) -> None:
    path = tmp_path / "flat.npy"
    dino("embed", photos, "-o", path, "--weights", tiny_weights, "--no-exif", *CPU)
    assert knn(photos / "red", "--index", path, "-k", 1, *CPU)["queries"] == 4


def test_a_folder_that_is_no_class_is_no_label(photos: Path, index: Path, tmp_path: Path) -> None:
    (photos / "red").rename(photos / "other")
    result = knn(photos / "other", "--index", index, "-k", 1)
    assert result["k"] == {}
    assert len(result["predictions"]) == 4
    dino("knn", photos / "other", "--index", index, "-k", 1, "-o", tmp_path / "p.csv")
    with (tmp_path / "p.csv").open(newline="") as rows:
        assert [row["label"] for row in csv.DictReader(rows)] == [""] * 4


def test_unreadable_pictures(photos: Path, index: Path) -> None:
    bad = photos / "red/0.png"
    bad.write_bytes(b"")
    assert "the file cannot be read as a picture" in fails(1, bad, "--index", index, *CPU)
    assert "empty file" in fails(1, photos, "--index", index, "--strict", *CPU)
    result = dino("knn", photos, "--index", index, *CPU, "--batch-size", 1)
    assert f"skipped '{bad}': empty file" in result.stderr
    result = dino("knn", photos, "--index", index, *CPU, "-o", index.with_name("p.csv"))
    assert "skipped '" not in result.stderr  # a list beside the output tells them
    assert (index.with_name("p.skipped.csv")).read_text().endswith("red/0.png,empty file\n")


def test_another_model_or_reading_is_refused(
    photos: Path, index: Path, tmp_path: Path, make_weights: Callable[..., Path]
) -> None:
    other = make_weights(tmp_path / "other.safetensors", seed=5)
    text = fails(1, photos, "--index", index, "--weights", other, *CPU)
    assert f"the index '{index}' was made with" in text
    assert "but the model for the queries with" in text
    assert knn(photos, "--index", index, "--weights", tmp_path / "own.safetensors", *CPU)["k"]
    text = fails(1, photos, "--index", index, "--no-exif", *CPU)
    assert "exif True, but the model for the queries with exif False" in text
    facts = json.loads(index.with_suffix(".json").read_text())
    index.with_suffix(".json").write_text(json.dumps({**facts, "features": "patch"}))
    assert "features 'patch', which are no vectors" in fails(1, photos, "--index", index, *CPU)
    index.with_suffix(".json").write_text(json.dumps(facts))
    # The file that the index names now holds something else; then it is gone.
    shutil.copy(other, tmp_path / "own.safetensors")
    assert "was made with" in fails(1, photos, "--index", index, *CPU)
    (tmp_path / "own.safetensors").unlink()
    text = fails(1, photos, "--index", index, *CPU)
    assert f"'{tmp_path}/own.safetensors', are not there any more; name them with" in text
