"""`dino map` into a folder: a site by Embedding Atlas."""

import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from in_process import dino

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


def test_a_site_with_a_name_that_a_shell_would_split(
    embed: Any, atlas: Any, tmp_path: Path
) -> None:
    atlas()
    done = dino("map", embed("f.npy"), "-o", tmp_path / "my site", "--no-thumbnails", "-q")
    assert done.stdout.endswith(f"http.server --directory '{tmp_path}/my site'\n")


@pytest.mark.slow
def test_a_site_gets_everything_that_it_shows(embed: Any, atlas: Any, tmp_path: Path) -> None:
    atlas()
    features = embed("f.npy")
    site = tmp_path / "site"
    result = json.loads(dino("map", features, "-o", f"{site}/", "--json").stdout)
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
    assert "already exists" in dino("map", features, "-o", site, code=1).stderr
    dino("map", features, "-o", site, "--overwrite", "--no-thumbnails", "-q")
    words, table = json.loads((site / "data" / "seen.json").read_text())
    assert "--image" not in words


@pytest.mark.slow
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
    done = dino("map", features, "-o", site, "--json")
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
    done = dino("map", features, "-o", site, "--json", "--overwrite")
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
        done = dino("map", embed(name), "-o", site)
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
    said = dino("map", features, "-o", tmp_path / "site", "--overwrite", code=1).stderr
    assert f"holds '{theirs.split('/')[0]}', which is of no earlier map" in said
    assert file.read_text() == "mine"


def test_a_site_is_replaced_but_not_with_a_file_that_is_of_no_map(
    embed: Any, atlas: Any, tmp_path: Path
) -> None:
    atlas()
    features = embed("f.npy")
    dino("map", features, "-o", tmp_path / "new", "-q")
    dino("map", features, "-o", tmp_path / "new", "-q", "--overwrite")
    (tmp_path / "new/data/0.png").write_text("mine")
    said = dino("map", features, "-o", tmp_path / "new", "--overwrite", code=1).stderr
    assert "holds 'data/0.png', which is of no earlier map" in said
    assert (tmp_path / "new/data/0.png").read_text() == "mine"


def test_a_site_by_way_of_folders_whose_names_are_no_utf8(
    embed: Any, atlas: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    atlas()
    features, site, scratch = (tmp_path / os.fsdecode(n) for n in (b"f.npy", b"s\xff", b"t\xfe"))
    embed("f.npy")
    scratch.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    dino("map", features, "-o", site, "-q")
    assert (site / "index.html").exists()
    assert list(scratch.iterdir()) == []


def test_a_site_that_fails_leaves_nothing(embed: Any, atlas: Any, tmp_path: Path) -> None:
    atlas(fail=True)
    features = embed("f.npy")
    before = sorted(os.listdir(tmp_path))
    done = dino("map", features, "-o", tmp_path / "site", code=1)
    assert "Embedding Atlas could not export the map (the exporter is out of order)" in done.stderr
    atlas(fail=True, said="OSError: [Errno 28] No space left on device")
    done = dino("map", features, "-o", tmp_path / "site", code=1)
    assert done.stderr.endswith("No space left on device); make room, or choose another -o\n")
    assert sorted(os.listdir(tmp_path)) == before


@pytest.mark.slow
def test_the_real_exporter(embed: Any, tmp_path: Path) -> None:
    pytest.importorskip("embedding_atlas")
    dino("map", embed("f.npy"), "-o", tmp_path / "site")
    names = {path.name for path in (tmp_path / "site").iterdir()}
    assert {"index.html", "assets", "data"} <= names
    facts = json.loads((tmp_path / "site" / "data" / "metadata.json").read_text())
    assert facts["props"]["data"]["projection"] == {"x": "x", "y": "y"}
