"""The formats of `dino embed`: every one holds the same, for our reader and for other people's."""

import csv
import hashlib
import io
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from interruptions import interrupt_after
from PIL import Image
from safetensors.numpy import load_file
from typer.testing import CliRunner, Result

from dino_cli.cli.app import app
from dino_cli.store.embeddings.reading import open_export, read_embeddings

FORMATS = ("npy", "npz", "safetensors", "parquet", "csv")


def run(*arguments: object, code: int = 0) -> Result:
    result = CliRunner().invoke(app, ["embed", *map(str, arguments)])
    assert result.exit_code == code, result.output
    assert "Traceback" not in result.output
    return result


def test_every_format_holds_the_same(photos: Path, tmp_path: Path, fixed: list[object]) -> None:
    (photos / "red/9.jpg").write_bytes(b"no picture")
    names = {}
    for kind in FORMATS:
        folder = tmp_path / kind
        folder.mkdir()
        run(photos, "-o", folder / f"f.{kind}", "--features", "cls,last4", *fixed)
        names[kind] = sorted(os.listdir(folder))
    beside = ["f.skipped.csv"]
    assert names == {
        "npy": sorted(["f.npy", "f.last4.npy", "f.csv", "f.json", "f.npy.sources", *beside]),
        "npz": sorted(["f.npz", "f.npz.sources", *beside]),
        "safetensors": sorted(
            ["f.safetensors", "f.csv", "f.json", "f.safetensors.sources", *beside]
        ),
        "parquet": sorted(["f.parquet", "f.parquet.sources", *beside]),
        "csv": sorted(["f.csv", "f.json", "f.csv.sources", *beside]),
    }
    paths = [p.as_posix() for p in sorted(photos.glob("*/*.png"))]
    first = np.load(tmp_path / "npy/f.npy")
    other = np.load(tmp_path / "npy/f.last4.npy")
    assert first.shape == (12, 64)
    assert other.shape == (12, 128)  # of two blocks
    np.testing.assert_allclose(other[:, 64:], first, atol=1e-6)
    for kind in FORMATS:
        found = read_embeddings(tmp_path / kind / f"f.{kind}")
        assert found.paths == paths
        assert found.labels == [Path(p).parent.name for p in paths]
        for array, expected in ((found.arrays["cls"], first), (found.arrays["last4"], other)):
            assert array.shape == expected.shape
            for rows in (slice(0, 3), slice(2, 99), slice(11, 12), slice(5, 5)):
                np.testing.assert_array_equal(array[rows], expected[rows])
        facts = found.metadata
        assert (facts["format"], facts["features"], facts["count"]) == (1, "cls", 12)
        assert facts["classes"] == ["blue", "green", "red"]
        assert facts["preprocessing"]["crop"] == 48
        lines = (tmp_path / kind / f"f.{kind}.sources").read_text().splitlines()
        assert lines == [f"{hashlib.sha256(Path(p).read_bytes()).hexdigest()}  {p}" for p in paths]
    _others_read_them(tmp_path, first, other, paths)


def _others_read_them(folder: Path, first: np.ndarray, other: np.ndarray, paths: list[str]) -> None:
    with np.load(folder / "npz/f.npz", allow_pickle=False) as content:
        np.testing.assert_array_equal(content["cls"], first)
        np.testing.assert_array_equal(content["last4"], other)
        assert content["paths"].tolist() == paths
        assert content["labels"][0] == "blue"
    tensors = load_file(folder / "safetensors/f.safetensors")
    np.testing.assert_array_equal(tensors["cls"], first)
    np.testing.assert_array_equal(tensors["last4"], other)
    with (folder / "csv/f.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    np.testing.assert_array_equal(
        np.array([[row[f"cls_{i}"] for i in range(64)] for row in rows], np.float32), first
    )
    pq = pytest.importorskip("pyarrow.parquet")
    table = pq.read_table(folder / "parquet/f.parquet")
    assert table.column("path").to_pylist() == paths
    assert str(table.schema.field("vector").type) == "fixed_size_list<element: float>[64]"
    np.testing.assert_array_equal(np.array(table.column("vector").to_pylist(), np.float32), first)
    assert json.loads(table.schema.metadata[b"dino"])["features"] == "cls"


def test_grids_of_patches(photos: Path, tmp_path: Path, fixed: list[object]) -> None:
    run(photos, "-o", tmp_path / "g.npz", "--features", "patch,mean", *fixed)
    found = open_export(tmp_path / "g.npz")
    grid = np.asarray(found.features[0:12])
    assert (grid.shape, grid.dtype) == ((12, 3, 3, 64), np.float16)
    np.testing.assert_allclose(
        grid.astype(np.float32).mean(axis=(1, 2)), found.arrays["mean"][0:12], atol=2e-2
    )
    assert found.metadata["grid"] == [3, 3]
    # Of several kinds `dino knn` takes the first that is no grid.
    by_mean = tmp_path / "m.npy"
    run(photos, "-o", by_mean, "--features", "mean", *fixed)
    assert _neighbors(tmp_path / "g.npz") == _neighbors(by_mean)
    run(photos, "-o", tmp_path / "h.npz", "--features", "patch", *fixed)
    result = CliRunner().invoke(app, ["knn", "--index", str(tmp_path / "h.npz")])
    assert result.exit_code == 1
    assert "holds a grid of 3 x 3 x 64 for each picture" in result.stderr
    text = run(photos, "-o", tmp_path / "g.csv", "--features", "keys", *fixed, code=2).stderr
    assert "'keys' are grids, which .csv does not hold; use .npy" in text


def _neighbors(index: Path) -> str:
    """What `dino knn` finds in it, with similarities."""
    table = index.with_name("found.csv")
    line = ["knn", "--index", str(index), "-k", "3", "-o", str(table), "--overwrite", "-q"]
    result = CliRunner().invoke(app, line)
    assert result.exit_code == 0, result.output
    return table.read_text()


def test_a_kind_in_a_file_of_its_own_is_read_by_its_name(
    photos: Path, tmp_path: Path, fixed: list[object]
) -> None:
    run(photos, "-o", tmp_path / "f.npy", "--features", "cls,mean,patch", *fixed)
    run(photos, "-o", tmp_path / "m.npy", "--features", "mean", *fixed)
    assert _neighbors(tmp_path / "f.mean.npy") == _neighbors(tmp_path / "m.npy")
    assert _neighbors(tmp_path / "f.mean.npy") != _neighbors(tmp_path / "f.npy")
    pictures = ["knn", photos / "red", "--index", tmp_path / "f.mean.npy", "--device", "cpu"]
    result = CliRunner().invoke(app, [*map(str, pictures), "-k", "1", "--json", "-q"])
    assert json.loads(result.stdout)["k"]["1"]["top1"] == 100  # each finds itself
    result = CliRunner().invoke(app, ["knn", "--index", str(tmp_path / "f.patch.npy")])
    assert "'f.patch.npy' holds a grid of 3 x 3 x 64" in result.stderr.replace(f"{tmp_path}/", "")
    result = CliRunner().invoke(app, ["knn", "--index", str(tmp_path / "f.keys.npy")])
    assert "'f.keys.npy' does not exist" in result.stderr.replace(f"{tmp_path}/", "")


def test_the_table_of_another_format_is_not_replaced(
    photos: Path, tmp_path: Path, fixed: list[object]
) -> None:
    run(photos, "-o", tmp_path / "f.npy", *fixed)
    before = {p.name: p.read_bytes() for p in tmp_path.glob("f.*")}
    for name in ("f.safetensors", "f.csv"):
        text = run(photos, "-o", tmp_path / name, "--overwrite", *fixed, code=1).stderr
        assert f"'{tmp_path}/f.csv' belongs to '{tmp_path}/f.npy'" in text
    assert {p.name: p.read_bytes() for p in tmp_path.glob("f.*")} == before
    run(photos, "-o", tmp_path / "f.npz", *fixed)
    (tmp_path / "w.safetensors").write_bytes(b"weights, which have no table")
    run(photos, "-o", tmp_path / "w.csv", *fixed)


def test_image_size_keeps_the_aspect(photos: Path, tmp_path: Path, tiny_weights: Path) -> None:
    fixed = ["--weights", tiny_weights, "--device", "cpu", "--workers", 0]
    Image.new("RGB", (120, 60)).save(tmp_path / "wide.png")
    Image.new("RGB", (60, 60)).save(tmp_path / "square.png")
    one, two = tmp_path / "wide.png", tmp_path / "square.png"
    run(one, "-o", tmp_path / "a.npy", "--image-size", 40, "--features", "patch", *fixed)
    assert np.load(tmp_path / "a.npy").shape == (1, 2, 5, 64)  # 40 x 80 trimmed to 32 x 80
    both = [two, one, "-o", tmp_path / "b.npy", "--features", "patch", *fixed]
    before = sorted(os.listdir(tmp_path))
    text = run(*both, "--image-size", 40, code=1).stderr
    assert "wide.png' has 2 x 5 patches, but pictures before it have 2 x 2" in text
    assert sorted(os.listdir(tmp_path)) == before
    run(*both, "--image-size", "32x48")
    assert np.load(tmp_path / "b.npy").shape == (2, 2, 3, 64)
    facts = json.loads((tmp_path / "b.json").read_text())
    assert (facts["preprocessing"]["resize"], facts["preprocessing"]["crop"]) == ([32, 48], None)
    # Vectors of pictures of different shapes are no trouble, and `dino knn` reads queries alike.
    run(photos, "-o", tmp_path / "c.npy", "--image-size", 40, "--multi-scale", *fixed)
    query = ["knn", photos / "red/2.png", "--index", tmp_path / "c.npy", "--device", "cpu"]
    out = [*query, "--neighbors", 1, "-o", tmp_path / "p.csv"]
    result = CliRunner().invoke(app, [*map(str, out)])
    assert result.exit_code == 0, result.output
    with (tmp_path / "p.csv").open(newline="") as file:
        (row,) = csv.DictReader(file)
    assert row["neighbor1"] == row["path"]
    assert float(row["similarity1"]) > 0.99999


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--features", "cls,nose"], "'nose' is none of the features; use cls, mean"),
        (["--thumbnails"], "--thumbnails is for tables"),
        (["--project"], "--project is for tables"),
        (["--append", "--overwrite"], "--append and --overwrite exclude each other"),
        (["--image-size", "8"], "smaller than one patch of 16"),
        (["--image-size", "64", "--crop", "32"], "--image-size replaces --resize and --crop"),
        (["--multi-scale", "--features", "patch"], "'patch' have no single grid"),
    ],
)
def test_what_cannot_be_meant(
    photos: Path, tmp_path: Path, tiny_weights: Path, options: list[str], message: str
) -> None:
    out = ["-o", tmp_path / "f.npy", "--weights", tiny_weights, "--device", "cpu", "--workers", 0]
    assert message in run(photos, *out, *options, code=2).stderr
    assert sorted(os.listdir(tmp_path)) == ["photos"]


def test_thumbnails_places_and_neighbours(
    photos: Path, tmp_path: Path, fixed: list[object], monkeypatch: pytest.MonkeyPatch
) -> None:
    pq = pytest.importorskip("pyarrow.parquet")
    monkeypatch.chdir(tmp_path)
    output = tmp_path / "f.parquet"
    run("photos", "-o", output, "--thumbnails", "--project", *fixed)
    table = pq.read_table(output)
    types = {field.name: str(field.type) for field in table.schema}
    assert types == {
        "path": "string",
        "label": "string",
        "vector": "fixed_size_list<element: float>[64]",
        "image": "struct<bytes: binary, path: string>",
        "x": "float",
        "y": "float",
        "neighbors": "struct<ids: list<element: int64>, distances: list<element: double>>",
    }
    rows = table.to_pylist()
    assert [row["path"] for row in rows] == [p.as_posix() for p in sorted(photos.glob("*/*.png"))]
    for row in rows:
        with Image.open(io.BytesIO(row["image"]["bytes"])) as image, Image.open(row["path"]) as big:
            assert (image.format, image.size) == ("JPEG", big.size)  # small ones are not enlarged
            difference = np.asarray(image, float) - np.asarray(big.convert("RGB"), float)
        assert np.abs(difference).mean() < 25  # the noise is lost, the colour stays
    vectors = np.array([row["vector"] for row in rows], np.float64)
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    cosines = unit @ unit.T
    np.fill_diagonal(cosines, -np.inf)
    for i, row in enumerate(rows):
        found = row["neighbors"]
        assert sorted(found["ids"]) == [j for j in range(12) if j != i]
        np.testing.assert_allclose(found["distances"], 1 - cosines[i][found["ids"]], atol=1e-5)
        assert found["distances"] == sorted(found["distances"])
    centred = unit - unit.mean(axis=0)
    expected = np.linalg.svd(centred)[1][:2]  # spread along the first two components
    places = np.array([[row["x"], row["y"]] for row in rows])
    np.testing.assert_allclose(np.linalg.norm(places, axis=0), expected, rtol=1e-3)


def test_a_table_goes_on_with_thumbnails_or_without_as_it_began(
    photos: Path, tmp_path: Path, fixed: list[object], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("pyarrow")
    out = [photos, "-o", tmp_path / "f.parquet", *fixed, "--batch-size", 1]
    with monkeypatch.context() as patch:
        interrupt_after(1, patch)
        run(*out, code=130)
    told = run(*out, "--resume", "--thumbnails", code=1).stderr
    assert "was made with thumbnails False, not True" in told


def test_without_pyarrow_it_is_a_sentence(
    photos: Path, tmp_path: Path, fixed: list[object], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = __import__

    def missing(name: str, *rest: Any, **more: Any) -> Any:
        if name.split(".")[0] == "pyarrow":
            raise ImportError(name)
        return real(name, *rest, **more)

    monkeypatch.setattr("builtins.__import__", missing)
    text = run(photos, "-o", tmp_path / "f.parquet", *fixed, code=1).stderr
    assert "pip install 'dino-cli[parquet]'" in text
    assert sorted(os.listdir(tmp_path)) == ["photos"]
