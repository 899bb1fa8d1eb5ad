"""`dino map`: a still picture of a feature file, and a site by Embedding Atlas."""

import io
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from feature_files import write_features
from PIL import Image
from typer.testing import CliRunner, Result

from dino_cli.cli.app import app
from dino_cli.progress import Reporter
from dino_cli.store.embeddings.reading import read_embeddings
from dino_cli.store.pictures.map_picture import COLOURS, draw_map
from dino_cli.tasks.map.pictures import all_thumbnails

ATLAS = """
import json, pathlib, sys
import pyarrow.parquet as pq
words = sys.argv[1:]
if "{fail}" == "yes":
    sys.exit("{said}")
out = pathlib.Path(words[words.index("--export-application") + 1])
(out / "data").mkdir(parents=True, exist_ok=True)
(out / "index.html").write_text("<title>Embedding Atlas</title>")
table = pq.read_table(words[0]).to_pylist()
for row in table:
    row["image"] = len(row["image"]["bytes"]) if row.get("image") else None
(out / "data" / "seen.json").write_text(json.dumps([words, table]))
"""


PHOTOS = {"blue": (30, 60, 200), "green": (40, 170, 60), "red": (210, 50, 40)}


NETWORK = "vit_64x2_patch16"


def run(*arguments: object, code: int = 0) -> Result:
    result = CliRunner().invoke(app, [str(word) for word in arguments])
    assert result.exit_code == code, result.output
    assert "Traceback" not in result.output
    return result


@pytest.fixture
def embed(photos: Path, tiny_weights: Path, tmp_path: Path) -> Any:
    def make(name: str, *options: str) -> Path:
        fixed = ["--weights", tiny_weights, "--device", "cpu", "--workers", 0, "--quiet"]
        fixed += ["--resize", 64, "--crop", 48]
        run("embed", photos, "-o", tmp_path / name, *fixed, *options)
        return tmp_path / name

    return make


@pytest.mark.parametrize("suffix", ["npy", "npz", "safetensors", "parquet", "csv"])
def test_a_picture_of_every_format(embed: Any, tmp_path: Path, suffix: str) -> None:
    pytest.importorskip("pyarrow")
    features = embed(f"f.{suffix}")
    output = tmp_path / "map.png"
    result = json.loads(run("map", features, "-o", output, "--width", 900, "--json").stdout)
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
        run("map", features, "-o", tmp_path / name, "--width", 600, "-q")
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_places_and_pictures_inside_a_parquet_are_used(
    embed: Any, photos: Path, tmp_path: Path
) -> None:
    pytest.importorskip("pyarrow")
    features = embed("f.parquet", "--thumbnails", "--project")
    for file in photos.glob("*/*.png"):
        file.unlink()
    done = run("map", features, "-o", tmp_path / "map.png", "--width", 600)
    assert "not where embedding found them" not in done.stderr
    assert "projecting" not in done.stderr
    again = run("map", features, "-o", tmp_path / "p.png", "--width", 600, "--project", "pca")
    assert "projecting" in again.stderr
    # The same method: the same map.
    assert (tmp_path / "map.png").read_bytes() == (tmp_path / "p.png").read_bytes()


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


def test_each_point_has_its_own_picture_colour_and_place(
    embed: Any, photos: Path, tmp_path: Path, drawn: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dino_cli.tasks.map.pictures.AHEAD", 3)
    for file in photos.glob("red/*"):
        file.rename(photos / file.name)  # of no class
    embed("f.npy", "--features", "mean")
    result = json.loads(run("map", tmp_path / "f.npy", "-o", tmp_path / "m.PNG", "--json").stdout)
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
    run("map", features, "-o", tmp_path / "first.png", "-q")
    row = drawn[0].chosen[0]
    Path(export.paths[row]).unlink()
    drawn.clear()
    for path in photos.glob("*/*.png"):
        Image.new("RGB", (600, 400), (255, 255, 0)).save(path)
    done = run("map", features, "-o", tmp_path / "map.png")
    assert "not where embedding found them" not in done.stderr
    layout, pictures = drawn[0], drawn[-1]
    assert len(pictures) == len(layout.chosen) > 2
    assert mean(pictures.pop(row)) == pytest.approx(PHOTOS[export.labels[row]], abs=15)
    assert {(picture.width, *mean(picture)) for picture in pictures.values()} == {
        (layout.side, 255, 255, 0)
    }
    drawn.clear()
    run("map", features, "-o", tmp_path / "small.png", "--width", 400)
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
        run("map", features, "-o", tmp_path / "map.png", "--overwrite")
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
    assert json.loads(run(*words, tmp_path / "a.png").stdout)["method"] == "umap"
    assert drawn[2] == f"{NETWORK} · cls features · UMAP · f.parquet · not to scale"
    drawn.clear()
    done = run(*words, tmp_path / "b.png", "--project", "pca")
    assert json.loads(done.stdout)["method"] == "pca"
    assert drawn[2].startswith(f"{NETWORK} · cls features · PCA · f.parquet")


def test_a_map_of_one_picture(embed: Any, photos: Path, tmp_path: Path, drawn: list[Any]) -> None:
    for file in sorted(photos.glob("*/*.png"))[1:]:
        file.unlink()
    done = run("map", embed("f.npy"), "-o", tmp_path / "map.png", "--width", 400, "-q")
    assert done.stdout.startswith(f"{tmp_path}/map.png: 1 picture, 1 shown, by PCA, ")
    assert drawn[1] == "1 picture"
    (photos / "blue/0.png").unlink()
    done = run("map", tmp_path / "f.npy", "-o", tmp_path / "none.png", "--width", 400)
    assert "the only picture is not where embedding found them" in done.stderr


def test_pictures_that_are_gone_are_told(
    embed: Any, photos: Path, tmp_path: Path, drawn: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dino_cli.tasks.map.pictures.AHEAD", 3)
    features = embed("f.npy")
    whole = json.loads(run("map", features, "-o", tmp_path / "all.png", "--json").stdout)
    export, count = read_embeddings(features), whole["thumbnails"]
    gone = int(drawn[0].chosen[1])
    Path(export.paths[gone]).unlink()
    done = run("map", features, "-o", tmp_path / "some.png", "--json")
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
    done = run("map", features, "-o", tmp_path / "map.png", "--json")
    assert json.loads(done.stdout)["thumbnails"] == 0
    assert "not where embedding found them" in done.stderr
    plain = run("map", features, "-o", tmp_path / "dots.png", "--json", "--no-thumbnails")
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
    done = run("map", "f.npy", *options, code=code)
    assert message in done.stderr
    assert sorted(os.listdir()) == before
    assert Path("there.png").read_text() == "mine"


def test_no_feature_file(tmp_path: Path) -> None:
    assert "nowhere.npy" in run("map", tmp_path / "nowhere.npy", code=1).stderr
    write_features(tmp_path / "e.npy", np.zeros((0, 4)), [])
    said = run("map", tmp_path / "e.npy", "-o", tmp_path / "m.png", code=1).stderr
    assert "e.npy' holds no pictures; embed some first" in said
    assert "is no file of features" in run("map", ".", "-o", tmp_path / "m.png", code=1).stderr
    assert "an empty name" in run("map", "", "-o", tmp_path / "m.png", code=2).stderr
    run("map", code=2)


def test_a_site_with_a_name_that_a_shell_would_split(
    embed: Any, atlas: Any, tmp_path: Path
) -> None:
    atlas()
    done = run("map", embed("f.npy"), "-o", tmp_path / "my site", "--no-thumbnails", "-q")
    assert done.stdout.endswith(f"http.server --directory '{tmp_path}/my site'\n")


@pytest.fixture
def atlas(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Something in the place of Embedding Atlas that tells what it was given."""
    pytest.importorskip("pyarrow")
    package = tmp_path / "lib" / "embedding_atlas"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path / "lib")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "lib"))
    monkeypatch.delitem(sys.modules, "embedding_atlas", raising=False)

    def behave(*, fail: bool = False, said: str = "the exporter is out of order") -> None:
        text = ATLAS.replace("{fail}", "yes" if fail else "no").replace("{said}", said)
        (package / "cli.py").write_text(text)

    return behave


@pytest.mark.slow
def test_a_site_gets_everything_that_it_shows(embed: Any, atlas: Any, tmp_path: Path) -> None:
    atlas()
    features = embed("f.npy")
    site = tmp_path / "site"
    result = json.loads(run("map", features, "-o", f"{site}/", "--json").stdout)
    assert (result["site"], result["count"], result["thumbnails"]) == (True, 12, 12)
    words, table = json.loads((site / "data" / "seen.json").read_text())
    assert {"--x", "--y", "--neighbors", "--image", "--disable-projection"} <= set(words)
    metadata = json.loads(words[words.index("--export-metadata") + 1])
    shown = metadata["props"]["defaultChartsConfig"]["embedding"]["data"]
    assert (shown["category"], shown["image"]) == ("label", "image")
    assert [row["label"] for row in table] == ["blue"] * 4 + ["green"] * 4 + ["red"] * 4
    for i, row in enumerate(table):
        assert row["image"] > 100
        assert np.isfinite([row["x"], row["y"]]).all()
        assert sorted(row["neighbors"]["ids"]) == [j for j in range(12) if j != i]
    assert "already exists" in run("map", features, "-o", site, code=1).stderr
    run("map", features, "-o", site, "--overwrite", "--no-thumbnails", "-q")
    words, table = json.loads((site / "data" / "seen.json").read_text())
    assert "--image" not in words


def test_a_site_of_pictures_that_are_gone_and_of_no_class(
    embed: Any, atlas: Any, photos: Path, tmp_path: Path
) -> None:
    atlas()
    for file in photos.glob("*/*.png"):
        file.rename(photos / f"{file.parent.name}-{file.name}")
    for folder in ("blue", "green", "red"):
        (photos / folder).rmdir()
    features, site = embed("f.npy"), tmp_path / "site"
    (photos / "green-1.png").unlink()
    done = run("map", features, "-o", site, "--json")
    assert json.loads(done.stdout)["thumbnails"] == 11
    assert "1 of 12 pictures is not where embedding found them" in done.stderr
    words, table = json.loads((site / "data" / "seen.json").read_text())
    assert [row["image"] is None for row in table] == [i == 5 for i in range(12)]
    shown = json.loads(words[words.index("--export-metadata") + 1])["props"]["defaultChartsConfig"]
    assert shown["embedding"]["data"] == {
        "x": "x", "y": "y", "neighbors": "neighbors", "image": "image", "importance": "pagerank",
    }  # fmt: skip
    assert shown["exclude"] == ["path", "pagerank"]
    for file in photos.glob("*.png"):
        file.unlink()
    done = run("map", features, "-o", site, "--json", "--overwrite")
    assert json.loads(done.stdout)["thumbnails"] == 0
    assert "--image" not in json.loads((site / "data" / "seen.json").read_text())[0]


@pytest.mark.slow
def test_a_site_tells_of_names_that_are_no_utf8(
    embed: Any, photos: Path, atlas: Any, tmp_path: Path
) -> None:
    """And shows each by itself, with its picture, whatever file they come from."""
    atlas()
    for old, new in (("2.png", b"a\xfe.png"), ("3.png", b"a\xff.png")):
        (photos / "red" / old).rename(photos / "red" / os.fsdecode(new))
    for name in ("f.npy", "f.parquet"):
        site = tmp_path / name.replace(".", "-")
        done = run("map", embed(name), "-o", site)
        assert "2 paths are not valid UTF-8" in " ".join(done.stderr.split())
        _, table = json.loads((site / "data" / "seen.json").read_text())
        names = [Path(row["path"]).name for row in table]
        assert names[-2:] == [r"a\xfe.png", r"a\xff.png"]
        assert all(row["image"] for row in table)


@pytest.mark.parametrize("theirs", ["data/a/0.png", "index.html", "assets/style.css"])
def test_a_site_replaces_nothing_but_a_site(
    embed: Any, atlas: Any, tmp_path: Path, theirs: str
) -> None:
    atlas()
    features, file = embed("f.npy"), tmp_path / "site" / theirs
    file.parent.mkdir(parents=True)
    file.write_text("mine")
    said = run("map", features, "-o", tmp_path / "site", "--overwrite", code=1).stderr
    assert f"holds '{theirs.split('/')[0]}', which is of no earlier map" in said
    file.rename(tmp_path / "theirs")
    run("map", features, "-o", tmp_path / "new", "-q")
    run("map", features, "-o", tmp_path / "new", "-q", "--overwrite")
    (tmp_path / "theirs").rename(tmp_path / "new/data/0.png")
    said = run("map", features, "-o", tmp_path / "new", "--overwrite", code=1).stderr
    assert "holds 'data/0.png', which is of no earlier map" in said
    assert (tmp_path / "new/data/0.png").read_text() == "mine"


def test_a_map_replaces_no_picture_that_it_shows(embed: Any, photos: Path) -> None:
    features, picture = embed("f.npy"), photos / "red/0.png"
    before = picture.read_bytes()
    said = run("map", features, "-o", picture, "--overwrite", code=1).stderr
    assert f"'{picture}' is read, and would be replaced" in said
    assert picture.read_bytes() == before


def test_a_site_by_way_of_folders_whose_names_are_no_utf8(
    embed: Any, atlas: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    atlas()
    features, site, scratch = (tmp_path / os.fsdecode(n) for n in (b"f.npy", b"s\xff", b"t\xfe"))
    embed("f.npy")
    scratch.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    run("map", features, "-o", site, "-q")
    assert (site / "index.html").exists()
    assert list(scratch.iterdir()) == []


def test_a_site_that_fails_leaves_nothing(embed: Any, atlas: Any, tmp_path: Path) -> None:
    atlas(fail=True)
    features = embed("f.npy")
    before = sorted(os.listdir(tmp_path))
    done = run("map", features, "-o", tmp_path / "site", code=1)
    assert "Embedding Atlas could not export the map (the exporter is out of order)" in done.stderr
    atlas(fail=True, said="OSError: [Errno 28] No space left on device")
    done = run("map", features, "-o", tmp_path / "site", code=1)
    assert done.stderr.endswith("No space left on device); make room, or choose another -o\n")
    assert sorted(os.listdir(tmp_path)) == before


@pytest.mark.slow
def test_the_real_exporter(embed: Any, tmp_path: Path) -> None:
    pytest.importorskip("embedding_atlas")
    run("map", embed("f.npy"), "-o", tmp_path / "site")
    names = {path.name for path in (tmp_path / "site").iterdir()}
    assert {"index.html", "assets", "data"} <= names
    facts = json.loads((tmp_path / "site" / "data" / "metadata.json").read_text())
    assert facts["props"]["data"]["projection"] == {"x": "x", "y": "y"}
