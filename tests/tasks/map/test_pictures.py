"""`dino map`: a still picture of a feature file."""

import io
import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from feature_files import write_features
from in_process import dino
from PIL import Image

from dino_cli.progress import Reporter
from dino_cli.store.embeddings.reading import read_embeddings
from dino_cli.store.pictures.map_picture import COLOURS, draw_map
from dino_cli.tasks.map.pictures import all_thumbnails

PHOTOS = {"blue": (30, 60, 200), "green": (40, 170, 60), "red": (210, 50, 40)}
NETWORK = "vit_64x2_patch16"


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What is drawn: layout, title, line below it, legend, colours and pictures by row."""
    given: list[Any] = []

    def note(path: Path, *rest: Any) -> None:
        given.extend(rest)
        draw_map(path, *rest)

    monkeypatch.setattr("dino_cli.tasks.map.run.draw", note)
    return given


def mean(picture: Image.Image) -> list[float]:
    return np.asarray(picture.convert("RGB"), float).mean(axis=(0, 1)).tolist()


@pytest.mark.parametrize("suffix", ["npy", "npz", "safetensors", "parquet", "csv"])
def test_a_picture_of_every_format(embed: Any, tmp_path: Path, suffix: str) -> None:
    pytest.importorskip("pyarrow")
    features = embed(f"f.{suffix}")
    output = tmp_path / "map.png"
    result = json.loads(dino("map", features, "-o", output, "--width", 900, "--json").stdout)
    assert (result["count"], result["classes"], result["method"]) == (12, 3, "pca")
    assert result["output"] == str(output)
    assert 3 <= result["thumbnails"] <= 12
    with Image.open(output) as picture:
        assert (picture.format, picture.width) == ("PNG", 900)
        pixels = np.asarray(picture.convert("RGB")).reshape(-1, 3)
    for colour in COLOURS[:3]:  # each class has points, frames and its place in the legend
        assert (pixels == colour).all(axis=1).sum() > 200
    assert (pixels == 255).all(axis=1).mean() > 0.1
    # The pictures themselves are there: pixels near the photos' own colours.
    blue = np.abs(pixels.astype(int) - (30, 60, 200)).max(axis=1) < 30
    assert blue.sum() > 500


def test_the_same_features_make_the_same_bytes(embed: Any, tmp_path: Path) -> None:
    features = embed("f.npy")
    for name in ("a.png", "b.png"):
        dino("map", features, "-o", tmp_path / name, "--width", 600, "-q")
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_places_and_pictures_inside_a_parquet_are_used(
    embed: Any, photos: Path, tmp_path: Path
) -> None:
    pytest.importorskip("pyarrow")
    features = embed("f.parquet", "--thumbnails", "--project")
    for file in photos.glob("*/*.png"):
        file.unlink()
    done = dino("map", features, "-o", tmp_path / "map.png", "--width", 600)
    assert "not where embedding found them" not in done.stderr
    assert "projecting" not in done.stderr
    again = dino("map", features, "-o", tmp_path / "p.png", "--width", 600, "--project", "pca")
    assert "projecting" in again.stderr
    # The same method: the same map.
    assert (tmp_path / "map.png").read_bytes() == (tmp_path / "p.png").read_bytes()


def test_each_point_has_its_own_picture_colour_and_place(
    embed: Any, photos: Path, tmp_path: Path, drawn: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dino_cli.tasks.map.pictures.AHEAD", 3)
    for file in photos.glob("red/*"):
        file.rename(photos / file.name)  # of no class
    embed("f.npy", "--features", "mean")
    result = json.loads(dino("map", tmp_path / "f.npy", "-o", tmp_path / "m.PNG", "--json").stdout)
    assert (result["classes"], result["site"]) == (2, False)
    layout, title, about, entries, colours, pictures = drawn
    assert title == "12 pictures"
    assert about.removesuffix(" · not to scale") == f"{NETWORK} · mean features · PCA · f.npy"
    assert [(e.text, e.count) for e in entries] == [("blue", 4), ("green", 4), ("unlabelled", 4)]
    assert sorted(pictures) == layout.chosen.tolist()
    labels = read_embeddings(tmp_path / "f.npy").labels
    for row, picture in pictures.items():
        assert mean(picture) == pytest.approx(PHOTOS[labels[row] or "red"], abs=15)
    assert colours.tolist() == [{"blue": 0, "green": 1, "": -1}[label] for label in labels]
    assert layout.box[2] + 100 < layout.size[0], "room for the legend"


def test_pictures_inside_a_table_stand_in_for_those_that_are_gone(
    embed: Any, photos: Path, tmp_path: Path, drawn: list[Any]
) -> None:
    """A wide map shows its few pictures larger than those inside, where the files are there."""
    pytest.importorskip("pyarrow")
    features = embed("f.parquet", "--thumbnails")
    export = read_embeddings(features)
    dino("map", features, "-o", tmp_path / "first.png", "-q")
    row = drawn[0].chosen[0]
    Path(export.paths[row]).unlink()
    drawn.clear()
    for path in photos.glob("*/*.png"):
        Image.new("RGB", (600, 400), (255, 255, 0)).save(path)
    done = dino("map", features, "-o", tmp_path / "map.png")
    assert "not where embedding found them" not in done.stderr
    layout, pictures = drawn[0], drawn[-1]
    assert len(pictures) == len(layout.chosen) > 2
    assert mean(pictures.pop(row)) == pytest.approx(PHOTOS[export.labels[row]], abs=15)
    assert {(picture.width, *mean(picture)) for picture in pictures.values()} == {
        (layout.side, 255, 255, 0)
    }
    drawn.clear()
    dino("map", features, "-o", tmp_path / "small.png", "--width", 400)
    assert max(mean(picture)[1] for picture in drawn[-1].values()) < 200  # those inside


def test_pictures_are_turned_as_they_were_embedded(
    embed: Any, photos: Path, tmp_path: Path, drawn: list[Any]
) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn
    for path in photos.glob("*/*.png"):
        Image.new("RGB", (60, 30)).save(path, exif=exif)
    for words, size in (([], (30, 60)), (["--no-exif"], (60, 30))):
        features = embed("f.npy", *words, "--overwrite")
        dino("map", features, "-o", tmp_path / "map.png", "--overwrite")
        assert {picture.size for picture in drawn[-1].values()} == {size}
        assert {
            Image.open(io.BytesIO(content or b"")).size
            for content in all_thumbnails(read_embeddings(features), Reporter())
        } == {size}


def test_places_that_another_made_or_that_are_far(
    embed: Any, tmp_path: Path, drawn: list[Any]
) -> None:
    """Those of a table are taken with the name of their method, unless another is asked for."""
    pa = pytest.importorskip("pyarrow")
    features = embed("f.parquet", "--project")
    table = pa.parquet.read_table(features)
    facts = json.loads(table.schema.metadata[b"dino"])
    places = np.linspace(0, 1, 12, dtype=np.float32)
    places[7] = 1000
    table = table.set_column(table.column_names.index("x"), "x", pa.array(places))
    table = table.replace_schema_metadata({"dino": json.dumps({**facts, "projection": "umap"})})
    pa.parquet.write_table(table, features)
    words = ["map", features, "--width", 400, "--no-thumbnails", "--json", "-o"]
    assert json.loads(dino(*words, tmp_path / "a.png").stdout)["method"] == "umap"
    assert drawn[2] == f"{NETWORK} · cls features · UMAP · f.parquet · not to scale"
    drawn.clear()
    done = dino(*words, tmp_path / "b.png", "--project", "pca")
    assert json.loads(done.stdout)["method"] == "pca"
    assert drawn[2].startswith(f"{NETWORK} · cls features · PCA · f.parquet")


def test_a_map_of_one_picture(embed: Any, photos: Path, tmp_path: Path, drawn: list[Any]) -> None:
    for file in sorted(photos.glob("*/*.png"))[1:]:
        file.unlink()
    done = dino("map", embed("f.npy"), "-o", tmp_path / "map.png", "--width", 400, "-q")
    assert done.stdout.startswith(f"{tmp_path}/map.png: 1 picture, 1 shown, by PCA, ")
    assert drawn[1] == "1 picture"
    (photos / "blue/0.png").unlink()
    done = dino("map", tmp_path / "f.npy", "-o", tmp_path / "none.png", "--width", 400)
    assert "the only picture is not where embedding found them" in done.stderr


def test_pictures_that_are_gone_are_told(
    embed: Any, photos: Path, tmp_path: Path, drawn: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dino_cli.tasks.map.pictures.AHEAD", 3)
    features = embed("f.npy")
    whole = json.loads(dino("map", features, "-o", tmp_path / "all.png", "--json").stdout)
    export, count = read_embeddings(features), whole["thumbnails"]
    gone = int(drawn[0].chosen[1])
    Path(export.paths[gone]).unlink()
    done = dino("map", features, "-o", tmp_path / "some.png", "--json")
    assert json.loads(done.stdout)["thumbnails"] == count - 1
    assert f"1 of {count} pictures is not where embedding found them" in done.stderr
    for row, content in enumerate(all_thumbnails(export, Reporter())):
        assert (content is None) == (row == gone)
        if content is not None:
            with Image.open(io.BytesIO(content)) as picture:
                assert max(picture.size) == 50 - row % 4
                assert mean(picture) == pytest.approx(PHOTOS[export.labels[row]], abs=15)
    for file in photos.glob("*/*.png"):
        file.unlink()
    done = dino("map", features, "-o", tmp_path / "map.png", "--json")
    assert json.loads(done.stdout)["thumbnails"] == 0
    assert "not where embedding found them" in done.stderr
    plain = dino("map", features, "-o", tmp_path / "dots.png", "--json", "--no-thumbnails")
    assert json.loads(plain.stdout)["thumbnails"] is None
    assert plain.stderr.count("not where") == 0


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (["-o", "map.jpg"], 2, "a map is a .png or a folder"),
        (["-o", "no/map.png"], 1, "does not exist"),
        (["-o", "map.png", "--width", "7"], 2, "--width 7"),
        (["-o", "map.png", "--width", "399"], 2, "--width 399 is not between 400 and 12000"),
        (["-o", "there.png"], 1, "already exists"),
        (["-o", "site"], 1, "pip install 'dino-cli[atlas]'"),
        (["-o", "my.site"], 1, "pip install 'dino-cli[atlas]'"),  # which is a folder already
        (["-o", "map.png", "--project", "umap"], 1, "pip install 'dino-cli[umap]'"),
    ],
)
def test_what_cannot_be(
    embed: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    options: list[str],
    code: int,
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("embedding_atlas", "umap"):
        monkeypatch.setitem(sys.modules, name, None)
    embed("f.npy")
    Path("there.png").write_text("mine")
    Path("my.site").mkdir()
    before = sorted(os.listdir())
    done = dino("map", "f.npy", *options, code=code)
    assert message in done.stderr
    assert sorted(os.listdir()) == before
    assert Path("there.png").read_text() == "mine"


def test_no_feature_file(tmp_path: Path) -> None:
    assert "nowhere.npy" in dino("map", tmp_path / "nowhere.npy", code=1).stderr
    write_features(tmp_path / "e.npy", np.zeros((0, 4)), [])
    said = dino("map", tmp_path / "e.npy", "-o", tmp_path / "m.png", code=1).stderr
    assert "e.npy' holds no pictures; embed some first" in said
    assert "is no file of features" in dino("map", ".", "-o", tmp_path / "m.png", code=1).stderr
    assert "an empty name" in dino("map", "", "-o", tmp_path / "m.png", code=2).stderr
    dino("map", code=2)


def test_a_map_replaces_no_picture_that_it_shows(embed: Any, photos: Path) -> None:
    features, picture = embed("f.npy"), photos / "red/0.png"
    before = picture.read_bytes()
    said = dino("map", features, "-o", picture, "--overwrite", code=1).stderr
    assert f"'{picture}' is read, and would be replaced" in said
    assert picture.read_bytes() == before
