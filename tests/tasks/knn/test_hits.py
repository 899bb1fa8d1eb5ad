"""`dino knn -o hits.html`: a page of the queries and their neighbours."""

import re
from base64 import b64decode
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from feature_files import write_features, write_index
from in_process import dino, knn
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
    assert "<dt>Network" not in page
    assert "<dt>SHA-256" not in page
