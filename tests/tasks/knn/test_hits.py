"""`dino knn -o hits.html`: a page of the queries and their neighbours."""

import re
from base64 import b64decode
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from feature_files import write_features, write_index
from in_process import dino, knn
from page_reader import Page
from PIL import Image


def test_a_page_of_hits(photos: Path, tiny_weights: Path, tmp_path: Path) -> None:
    fixed = ["--device", "cpu", "--precision", "fp32"]
    flat = tmp_path / "flat"  # where no folder names a class
    flat.mkdir()
    for path in sorted(photos.glob("*/*.png")):
        (flat / f"{path.parent.name}-{path.name}").symlink_to(path)
    for name, source in (("feats", photos), ("bare", flat)):
        dino("embed", source, "-o", tmp_path / f"{name}.npy", "--weights", tiny_weights, *fixed)
    (photos / "red/3.png").unlink()  # of the index: the page says that it is gone
    out = tmp_path / "hits.html"
    query = tmp_path / "<b>x.png"
    query.write_bytes((photos / "red/1.png").read_bytes())
    for index, predicted in (("feats", True), ("bare", False)):
        arguments = [query, "--index", tmp_path / f"{index}.npy", "--neighbors", 12, "--overwrite"]
        result = knn(*arguments, "-o", out, *fixed)
        assert result["output"] == str(out)
        page = out.read_text()
        assert page.count("<figure>") == 12
        assert page.count("data:image/jpeg;base64,") == 12  # the query, and eleven that are there
        assert "cannot be read" in page
        assert ("predicted <strong>red</strong>" in page) == predicted
        assert "&lt;b&gt;x.png" in page
        assert "<b>x" not in page
        assert "<script" not in page
        assert not re.search(r"(src|href)=\"(?!data:)", page)
        similarities = [float(v) for v in re.findall(r'<b><data value="([0-9.e-]+)"', page)]
        assert similarities[0] > 0.99999
        assert similarities == sorted(similarities, reverse=True)


def test_a_page_shows_the_first_queries_and_what_is_rejected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "i").mkdir()
    (tmp_path / "i/1.jpg").write_bytes(b"no picture")
    monkeypatch.setattr("dino_cli.tasks.knn.hits.MOST_QUERIES", 3)
    index = write_index(tmp_path / "i.npy", np.eye(4)[[0, 0, 1, 1, 2]], ["a", "a", "b", "b", ""])
    words = ["--index", index, "-o", "p.html", "--min-similarity", 0.5, "--overwrite"]
    told = dino("knn", *words).stderr
    assert "using" not in told  # nobody asked for the accuracies of the default numbers
    page = (tmp_path / "p.html").read_text()
    assert "5 queries against the 5 pictures" in page
    assert "Shown here: the first 3." in page
    assert page.count("<article") == page.count("predicted <strong>") == 3
    assert "like nothing in the index" not in page
    write_index(tmp_path / "q.npy", np.eye(4)[[3, 0, 3]], [""] * 3)
    told = dino("knn", "q.npy", *words, "-k", 200).stderr
    assert "k=200 but the index has 4 images; using 4" in told
    page = (tmp_path / "p.html").read_text()
    assert page.count("like nothing in the index") == 2
    assert page.count("predicted <strong>a</strong>") == 1
    assert "Shown here" not in page


def test_each_hit_is_shown_with_its_own_facts(tmp_path: Path) -> None:
    colours = [(200, 30, 30), (190, 60, 30), (30, 30, 200), (30, 60, 190)]
    for i, colour in enumerate(colours):
        Image.new("RGB", (300, 200), colour).save(tmp_path / f"{i}.png")
    vectors = np.array([[1, 0, 0], [1, 0.2, 0.1], [0, 0, 1], [0.1, 0.3, 1]])
    rows = [(f"{tmp_path}/{i}.png", "aabb"[i]) for i in range(4)]
    index = write_features(tmp_path / "i.npy", vectors, rows)
    query = write_features(tmp_path / "q.npy", vectors[3:1:-1], [rows[3], rows[2]])
    fixed = ["--index", index, "--neighbors", 2, "-k", 3, "--temperature", 0.02]
    dino("knn", query, *fixed, "-o", tmp_path / "p.html")
    page = Page(tmp_path / "p.html")
    assert "2 queries against the 4 pictures" in page.words
    text = (tmp_path / "p.html").read_text()
    assert re.findall(r"predicted <strong>b</strong>, <data value=\"([0-9.]+)", text) == ["1.0"] * 2
    assert re.findall("; labelled (.)", text) == ["b", "b"]
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    expected = []
    for row in (3, 2):
        near = np.argsort(-unit @ unit[row])[:2].tolist()
        expected += [(f"{unit[j] @ unit[row]:.3f}", "aabb"[j], f"{j}.png") for j in near]
    found = re.findall(r">(-?[0-9.]+)</data></b> (.)<span>(.*?)</span>", text)
    assert found == expected
    names = [name for _, _, name in expected]
    shown = [attributes["alt"] for tag, attributes in page.tags if tag == "img"]
    assert shown == ["3.png", *names[:2], "2.png", *names[2:]]
    for i, colour in enumerate(colours):
        for picture in page.pictures(f"{i}.png"):
            assert picture.shape == (133, 200, 3)
            assert np.abs(picture - colour).max() < 8


def test_pictures_on_a_page_are_turned_unless_told_otherwise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "turned").mkdir()
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn
    for i in range(2):
        Image.new("RGB", (40, 20)).save(f"turned/{i}.jpg", exif=exif)
    index = write_index(tmp_path / "turned.npy", np.eye(2), ["", ""])
    for words, size in (([], (20, 40)), (["--no-exif"], (40, 20))):
        dino("knn", "--index", index, "-o", "p.html", "--overwrite", *words)
        found = re.findall(r"base64,([^\"]+)", (tmp_path / "p.html").read_text())
        assert [Image.open(BytesIO(b64decode(one))).size for one in found] == [size] * 4


def test_a_page_of_features_that_tell_nothing_of_their_making(tmp_path: Path) -> None:
    rows = [(f"{i}.jpg", "") for i in range(3)]
    index = write_features(tmp_path / "i.npy", np.eye(3), rows)
    dino("knn", "--index", index, "-o", tmp_path / "p.html")
    page = (tmp_path / "p.html").read_text()
    assert "by cosine similarity of the features.</p>" in page
    assert "like nothing in the index" not in page  # without classes nothing is rejected
    assert "<dt>Network" not in page
    assert "<dt>SHA-256" not in page
