"""What `dino knn` tells besides accuracies: classes, rejection, duplicates, pages, recall."""

import csv
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from feature_files import clusters, write_index
from in_process import dino, knn, refusal
from PIL import Image

from dino_cli.tasks.knn import duplicates


def predictions(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_classes_are_counted_as_the_predictions_say(tmp_path: Path) -> None:
    index = write_index(tmp_path / "train.npy", *clusters(80, 1))
    out = tmp_path / "p.csv"
    fixed = ["--index", index, "-k", 7, "--per-class", "--confusion", tmp_path / "c.png"]
    result = knn(*fixed, "-o", out)
    rows = predictions(out)
    assert set(result["classes"]) == {"c0", "c1", "c2", "c3", "c4"}
    for name, found in result["classes"].items():
        told = Counter(row["predicted"] for row in rows if row["label"] == name)
        assert found["queries"] == sum(told.values())
        assert found["top1"] == pytest.approx(100 * told[name] / sum(told.values()))
        wrong = {other: n for other, n in told.items() if other != name}
        assert found["confused"] == max(wrong.values(), default=0)
        if wrong:
            assert wrong[found["confused_with"]] == found["confused"]
    right = sum(c["top1"] * c["queries"] for c in result["classes"].values()) / 80
    assert result["k"]["7"]["top1"] == pytest.approx(right)
    assert 30 < right < 99
    assert result["confusion"] == str(tmp_path / "c.png")
    assert "c.png' already exists" in refusal(1, "knn", *fixed)
    with Image.open(tmp_path / "c.png") as picture:
        assert picture.format == "PNG"
        assert min(picture.size) > 300
    text = dino("knn", *fixed, "--overwrite").stdout
    assert "class\tqueries\ttop-1 %\tmost often taken for\ttimes\nc0\t" in text


def test_neighbours_are_told_with_and_without_classes(tmp_path: Path) -> None:
    vectors, labels = clusters(30, 1)
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    cosines = unit @ unit.T - 2 * np.eye(30)
    nearest = np.argsort(-cosines, axis=1)[:, :3]
    for name, given in (("with", labels), ("without", [""] * 30)):
        index = write_index(tmp_path / f"{name}.npy", vectors, given)
        result = knn("--index", index, "--neighbors", 3)
        paths = [one["path"] for one in result["predictions"]]
        assert bool(result["k"]) == all(one["predicted"] for one in result["predictions"])
        assert bool(result["k"]) == (name == "with")
        knn("--index", index, "--neighbors", 3, "-o", tmp_path / f"{name}-found.csv")
        rows = predictions(tmp_path / f"{name}-found.csv")
        for i, (one, row) in enumerate(zip(result["predictions"], rows, strict=True)):
            assert [n["path"] for n in one["neighbors"]] == [paths[j] for j in nearest[i]]
            assert [n["similarity"] for n in one["neighbors"]] == pytest.approx(
                [cosines[i, j] for j in nearest[i]], abs=1e-5
            )
            for number, n in enumerate(one["neighbors"], 1):
                assert row[f"neighbor{number}"] == n["path"]
                assert float(row[f"similarity{number}"]) == n["similarity"]
            assert row["predicted"] == (one["predicted"] or "")
        lines = dino("knn", "--index", index, "--neighbors", 3).stdout.splitlines()
        shown = lines[lines.index("path\tneighbor\tsimilarity") + 1 :]
        assert len(shown) == 90
        assert shown[0].split("\t")[:2] == [paths[0], paths[nearest[0][0]]]


def test_figures_of_classes_are_not_left_out_in_silence(tmp_path: Path) -> None:
    bare = write_index(tmp_path / "bare.npy", np.eye(4), [""] * 4)
    index = write_index(tmp_path / "i.npy", np.eye(4), ["a", "a", "b", "b"])
    other = write_index(tmp_path / "q.npy", np.eye(4), ["z"] * 4)
    matrix = ["--confusion", tmp_path / "c.png"]
    for asked, name in ((matrix, "--confusion"), (["--per-class"], "--per-class")):
        said = refusal(2, "knn", "--index", index, "--duplicates", 0.9, *asked)
        assert f"{name} does not go with --duplicates" in said
        said = refusal(1, "knn", other, "--index", index, *asked)
        assert f"{name} needs queries whose classes are known" in said
        said = refusal(1, "knn", "--index", bare, "-o", tmp_path / "h.html", *asked)
        assert f"{name} needs queries whose classes are known" in said
    assert not list(tmp_path.glob("*.png")) + list(tmp_path.glob("*.html"))


def test_what_is_like_nothing_known_is_rejected(tmp_path: Path) -> None:
    index = write_index(tmp_path / "i.npy", np.eye(4)[[0, 0, 1, 1]], ["a", "a", "b", "b"])
    queries = np.array([[1, 0.1, 0, 0], [0, 0, 1, 0.2], [0.2, 1, 0, 0], [0, 1, 2, 0]])
    write_index(tmp_path / "q.npy", queries, ["a", "z", "a", "b"])
    out = tmp_path / "p.csv"
    arguments = [tmp_path / "q.npy", "--index", index, "-k", 2, "--min-similarity", 0.6]
    result = knn(*arguments, "-o", out)
    assert [row["predicted"] for row in predictions(out)] == ["a", "", "b", ""]
    assert [row["probability"] for row in predictions(out)] == ["1.0", "", "1.0", ""]
    assert result["rejection"] == {
        "min_similarity": 0.6,
        "rejected": 2,
        "of_known": pytest.approx(100 / 3),
        "of_unknown": 100.0,
        "top1_of_accepted": 50.0,
    }
    told = dino("knn", *arguments)
    assert "2 of 4 queries are of no known class (nearest cosine below 0.6)" in told.stdout
    assert "are no classes of the index" not in told.stderr  # the rejection tells of them
    assert "classes" not in result  # nobody asked for them
    assert knn(*arguments[:-1], 0)["rejection"]["rejected"] == 0
    write_index(tmp_path / "some.npy", queries[:2], ["a", "z"])
    classes = knn(tmp_path / "some.npy", *arguments[1:], "--per-class")["classes"]
    assert list(classes) == ["a"]  # of the others there are no queries
    # A cosine of 1 is not below 1, and without labels there are no shares.
    write_index(tmp_path / "own.npy", np.eye(4)[[0, 1]], ["", ""])
    found = knn(tmp_path / "own.npy", "--index", index, "-k", 2, "--min-similarity", 1)
    assert [p["predicted"] for p in found["predictions"]] == ["a", "b"]
    assert found["rejection"] == {
        "min_similarity": 1,
        "rejected": 0,
        "of_known": None,
        "of_unknown": None,
        "top1_of_accepted": None,
    }
    # Most of the class's queries are taken for none.
    write_index(tmp_path / "far.npy", queries[[0, 0, 1, 3, 2]], ["a", *"bbbb"])
    arguments[0] = tmp_path / "far.npy"
    assert knn(*arguments, "--per-class")["classes"] == {
        "a": {"queries": 1, "top1": 100.0, "confused_with": None, "confused": 0},
        "b": {"queries": 4, "top1": 25.0, "confused_with": None, "confused": 2},
    }
    write_index(tmp_path / "bare.npy", queries, [""] * 4)
    found = knn(tmp_path / "bare.npy", "--index", index, "-k", 2, "--min-similarity", 0.6)
    assert [p["predicted"] for p in found["predictions"]] == ["a", None, "b", None]


def test_duplicates_equal_the_oracle(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(60, 6))
    for copy, of in ((7, 3), (20, 3), (41, 20), (55, 54)):
        vectors[copy] = vectors[of] + 0.02 * rng.normal(size=6)
    index = write_index(tmp_path / "i.npy", vectors, [""] * 60)
    out = tmp_path / "d.csv"
    result = knn("--index", index, "--duplicates", 0.97, "-o", out)
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    expected = [
        (f"i/{a}.jpg", f"i/{b}.jpg", float(unit[a] @ unit[b]))
        for a in range(60)
        for b in range(a + 1, 60)
        if unit[a] @ unit[b] >= 0.97
    ]
    rows = predictions(out)
    assert [(r["path"], r["duplicate"]) for r in rows] == [(a, b) for a, b, _ in expected]
    np.testing.assert_allclose(
        [float(r["similarity"]) for r in rows], [s for _, _, s in expected], atol=1e-5
    )
    groups = {name: r["group"] for r in rows for name in (r["path"], r["duplicate"])}
    assert len({groups[f"i/{i}.jpg"] for i in (3, 7, 20, 41)}) == 1
    assert groups["i/54.jpg"] == groups["i/55.jpg"] != groups["i/3.jpg"]
    assert result["index"] == 60
    assert (result["pairs"], result["groups"]) == (len(expected), len(set(groups.values())))
    assert result["duplicates"] == len(groups) - result["groups"]
    shown = knn("--index", index, "--duplicates", 0.97)["found"]
    assert [(p["path"], p["duplicate"]) for p in shown] == [(a, b) for a, b, _ in expected]
    none = knn("--index", index, "--duplicates", 1)
    assert (none["pairs"], none["groups"], none["duplicates"], none["found"]) == (0, 0, 0, [])


def test_groups_of_duplicates_are_chains_numbered_by_their_first_rows(tmp_path: Path) -> None:
    angles = np.random.default_rng(0).uniform(0, 3, 150)
    index = write_index(
        tmp_path / "i.npy", np.stack([np.cos(angles), np.sin(angles)], axis=1), [""] * 150
    )
    near, order = 0.03, np.argsort(angles)
    chains = np.split(order, np.flatnonzero(np.diff(angles[order]) > near) + 1)
    expected = sorted(sorted(chain.tolist()) for chain in chains if len(chain) > 1)
    assert max(map(len, expected)) > 9
    result = knn("--index", index, "--duplicates", np.cos(near), "-o", tmp_path / "d.csv")
    found: dict[int, set[int]] = {}
    for row in predictions(tmp_path / "d.csv"):
        pair = {int(Path(row[key]).stem) for key in ("path", "duplicate")}
        found.setdefault(int(row["group"]), set()).update(pair)
    assert {n: sorted(group) for n, group in found.items()} == dict(enumerate(expected, 1))
    assert result["groups"] == len(expected)
    assert result["duplicates"] == sum(len(chain) - 1 for chain in expected)


def test_many_duplicates_are_shown_in_part_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = write_index(tmp_path / "i.npy", np.eye(4)[[0, 0, 0, 1]], [""] * 4)
    asked = ["knn", "--index", index, "--duplicates"]
    for shown, told in ((3, False), (2, True)):
        monkeypatch.setattr(duplicates, "SHOWN", shown)
        result = dino(*asked, 0.9, "--json")
        assert len(json.loads(result.stdout)["found"]) == shown
        assert (f"the first {shown} of 3 pairs; all" in result.stderr) == told
    assert knn(*asked[1:], -1)["pairs"] == 6
    monkeypatch.setattr(duplicates, "MOST_PAIRS", 2)
    text = dino(*asked, 0.9, code=1).stderr
    assert "more than 2 pairs are as similar as 0.9; use a higher --duplicates" in text


def test_progress_of_duplicates_counts_the_images(tmp_path: Path) -> None:
    vectors = np.random.default_rng(0).normal(size=(9000, 32))
    index = write_index(tmp_path / "i.npy", vectors, [""] * 9000)
    told = dino("knn", "--index", index, "--duplicates", 0.99).stderr
    assert "comparing 9000/9000" in told


def test_classes_of_any_name_are_drawn(tmp_path: Path) -> None:
    labels = ["cl\udce9ss", "a\nb", "$x^{", "\u732b"] * 2
    index = write_index(tmp_path / "i.npy", np.eye(4)[[0, 1, 2, 3] * 2], labels)
    told = dino("knn", "--index", index, "--confusion", tmp_path / "c.png").stderr
    assert "Warning" not in told
    with Image.open(tmp_path / "c.png") as picture:
        assert min(picture.size) > 300


def test_several_indexes_are_one(tmp_path: Path) -> None:
    bank, labels = clusters(60, 1)
    whole = write_index(tmp_path / "w.npy", bank, labels)
    parts = [
        write_index(tmp_path / "a.npy", bank[:23], labels[:23]),
        write_index(tmp_path / "b.npy", bank[23:], labels[23:]),
    ]
    test = write_index(tmp_path / "t.npy", *clusters(30, 2))
    for query in ([], [test]):
        expected = knn(*query, "--index", whole, "-k", 5, "-k", 40)
        found = knn(*query, "--index", parts[0], "--index", parts[1], "-k", 5, "-k", 40)
        assert found == expected
    empty = write_index(tmp_path / "e.npy", bank[:0], [])
    again = knn("--index", empty, "--index", whole, "--index", whole, "-k", 5)
    assert again == knn("--index", whole, "-k", 5)  # a file that is named twice counts once
    other = write_index(tmp_path / "o.npy", bank, labels, weights_sha256="cd" * 32)
    text = dino("knn", "--index", whole, "--index", other, code=1).stderr
    assert "was made with m (weights abababab), but" in text


def test_faiss_tells_the_recall_of_as_many_as_there_are(tmp_path: Path) -> None:
    pytest.importorskip("faiss")
    index = write_index(tmp_path / "i.npy", *clusters(6, 1))
    found = knn("--index", index, "-k", 3, "--search", "faiss")
    assert found["recall"] == {"k": 5, "share": 1.0}


def test_faiss_finds_nearly_all(tmp_path: Path) -> None:
    pytest.importorskip("faiss")
    bank, labels = clusters(3000, 1, spread=0.5)
    labels[5] = ""
    index = write_index(tmp_path / "i.npy", bank, labels)
    test = write_index(tmp_path / "t.npy", *clusters(200, 2, spread=0.5))
    for query in ([], [test]):
        exact = knn(*query, "--index", index, "-k", 20)
        found = knn(*query, "--index", index, "-k", 20, "--search", "faiss")
        assert found["k"]["20"]["top1"] == pytest.approx(exact["k"]["20"]["top1"], abs=1)
        assert found["recall"]["k"] == 10
        assert 0.8 < found["recall"]["share"] <= 1
    exact_rows, rows = (
        [
            {row[f"neighbor{j}"] for j in range(1, 6)}
            for row in _written(test, index, tmp_path / f"{how}.csv", how)
        ]
        for how in ("exact", "faiss")
    )
    shared = np.mean([len(a & b) / 5 for a, b in zip(exact_rows, rows, strict=True)])
    assert shared > 0.8
    assert "i/5.jpg" not in set().union(*rows)  # has no label, so it is no neighbour


def test_faiss_leaves_each_row_of_the_index_itself_out(tmp_path: Path) -> None:
    pytest.importorskip("faiss")
    index = write_index(tmp_path / "i.npy", *clusters(60, 1))
    knn("--index", index, "--search", "faiss", "-o", tmp_path / "p.csv")
    assert all(row["neighbor1"] != row["path"] for row in predictions(tmp_path / "p.csv"))


def _written(test: Path, index: Path, out: Path, how: str) -> list[dict[str, str]]:
    knn(test, "--index", index, "--search", how, "-o", out)
    return predictions(out)


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--duplicates", 2], 2, "--duplicates 2 is not a cosine"),
        (["--duplicates", 0.9, "-o", "d.html"], 2, "duplicates are listed as .csv"),
        (["q.npy", "--duplicates", 0.9], 2, "takes no queries"),
        (["--min-similarity", -3], 2, "--min-similarity -3 is not a cosine"),
        (["--confusion", "c.jpg"], 2, "the confusion matrix is a .png"),
        (["--confusion", "no/c.png"], 1, "mkdir -p"),
        (["-o", "p.txt"], 2, "predictions are .csv or .html"),
    ],
)
def test_misuse_is_a_sentence(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[object],
    code: int,
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    index = write_index(tmp_path / "i.npy", *clusters(20, 1))
    assert message in dino("knn", "--index", index, *arguments, code=code).stderr
