"""`dino knn` through the command line, on files."""

import csv
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from feature_files import clusters, write_index
from in_process import dino, knn, refusal


def fails(code: int, *arguments: object) -> str:
    return refusal(code, "knn", *arguments)


def slow_knn(
    bank: np.ndarray, labels: list[str], query: np.ndarray, k: int, t: float, leave: int | None
) -> tuple[list[str], float, list[int]]:
    """One query, in plain Python: classes in the order of their votes, share, neighbours."""
    unit = bank / np.linalg.norm(bank, axis=1, keepdims=True)
    cosines = unit @ (query / np.linalg.norm(query))
    near = [j for j in np.argsort(-cosines, kind="stable").tolist() if j != leave][:k]
    votes = dict.fromkeys(sorted(set(labels) - {""}), 0.0)
    for j in near:
        votes[labels[j]] += float(np.exp(cosines[j] / t))
    order = sorted(votes, key=lambda name: -votes[name])  # stable: the first name among equals
    return order, votes[order[0]] / sum(votes.values()), near


@pytest.mark.parametrize("own", [True, False])
def test_accuracies_and_predictions_equal_the_oracle(tmp_path: Path, own: bool) -> None:
    bank, labels = clusters(60, 1, classes=7)
    write_index(tmp_path / "train.npy", bank, labels)
    test, targets = (bank, labels) if own else clusters(40, 2, classes=7)
    if not own:
        write_index(tmp_path / "test.npy", test, targets)
    ks, t = [1, 3, 5, 20], 0.2
    arguments: list[object] = [] if own else [tmp_path / "test.npy"]
    for k in ks:
        arguments += ["-k", k]
    out = tmp_path / "p.csv"
    result = knn(
        *arguments, "--index", tmp_path / "train.npy", "--temperature", t, "-o", out,
        "--neighbors", 2,
    )  # fmt: skip
    for k in ks:
        orders = [
            slow_knn(bank, labels, q, k, t, i if own else None)[0] for i, q in enumerate(test)
        ]
        pairs = list(zip(orders, targets, strict=True))
        top1 = 100 * sum(order[0] == target for order, target in pairs) / len(test)
        top5 = 100 * sum(target in order[: min(5, k)] for order, target in pairs) / len(test)
        assert result["k"][str(k)] == {"top1": top1, "top5": top5}
    assert 40 < result["k"]["20"]["top1"] < 100  # neither trivial nor hopeless
    assert (result["queries"], result["index"]) == (len(test), 60)
    assert result["output"] == str(out)

    with out.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == [
        "path", "predicted", "probability", "label",
        "neighbor1", "similarity1", "neighbor2", "similarity2",
    ]  # fmt: skip
    stem = "train" if own else "test"
    for i, (row, query) in enumerate(zip(rows, test, strict=True)):
        order, share, near = slow_knn(bank, labels, query, ks[0], t, i if own else None)
        assert row["path"] == f"{stem}/{i}.jpg"
        assert (row["predicted"], row["label"]) == (order[0], targets[i])
        assert float(row["probability"]) == pytest.approx(share, abs=1e-4)
        assert row["neighbor1"] == f"train/{near[0]}.jpg"


@pytest.mark.golden
def test_accuracies_of_the_original(tmp_path: Path, golden: Any) -> None:
    """The original's numbers, from files to JSON."""
    data = golden.tensors("knn")
    for name in ("train", "test"):
        labels = [f"{number:04}" for number in data[f"{name}_labels"].tolist()]
        write_index(tmp_path / f"{name}.npy", data[f"{name}_features"].numpy(), labels)
    expected = golden.json("knn")
    ks = [part for k in expected for part in ("-k", k)]
    result = knn(tmp_path / "test.npy", "--index", tmp_path / "train.npy", *ks)
    assert result["k"] == expected


def test_predictions_use_twenty_neighbours_unless_told(tmp_path: Path) -> None:
    bank, labels = clusters(60, 1, classes=7)
    write_index(tmp_path / "train.npy", bank, labels)
    knn("--index", tmp_path / "train.npy", "--temperature", 1, "-o", tmp_path / "p.csv")
    with (tmp_path / "p.csv").open(newline="") as file:
        found = [row["predicted"] for row in csv.DictReader(file)]
    expected = [slow_knn(bank, labels, q, 20, 1, i)[0][0] for i, q in enumerate(bank)]
    assert found == expected
    assert found != [slow_knn(bank, labels, q, 10, 1, i)[0][0] for i, q in enumerate(bank)]


def test_k_is_clamped_with_a_remark(tmp_path: Path) -> None:
    bank, labels = clusters(30, 1, classes=3)
    write_index(tmp_path / "train.npy", bank, labels)
    write_index(tmp_path / "one.npy", bank[:1], labels[:1])
    result = dino("knn", tmp_path / "one.npy", "--index", tmp_path / "train.npy", "--json")
    assert list(json.loads(result.stdout)["k"]) == ["10", "20", "30"]
    assert json.loads(result.stdout)["queries"] == 1
    assert "k=200 but the index has 30 images; using 30\n" in result.stderr
    result = dino("knn", "--index", tmp_path / "train.npy", "--json", "-k", "30")
    assert list(json.loads(result.stdout)["k"]) == ["29"]
    assert "k=30 but the index has 29 other images; using 29\n" in result.stderr
    result = dino("knn", "--index", tmp_path / "train.npy", "-k", "29")
    assert "using" not in result.stderr
    assert "searching 30/30" in result.stderr
    assert "in the index and will find" not in result.stderr  # each is compared with the others
    write_index(tmp_path / "two.npy", bank[:2], ["a", "b"])
    result = dino("knn", "--index", tmp_path / "two.npy", "-k", "5")
    assert "k=5 but the index has 1 other image; using 1\n" in result.stderr


def test_neighbours_that_there_are_not_are_told(tmp_path: Path) -> None:
    bank, labels = clusters(30, 1, classes=3)
    index = ["--index", write_index(tmp_path / "train.npy", bank, labels), "-k", 5]
    one = write_index(tmp_path / "one.npy", bank[:1], labels[:1])
    told = "--neighbors 50 but the index has {}; naming {}\n"
    for queries, has, named in (([one], "30 images", 30), ([], "29 other images", 29)):
        result = dino("knn", *queries, *index, "--neighbors", 50, "--json")
        assert result.stderr.count(told.format(has, named)) == 1
        for row in json.loads(result.stdout)["predictions"]:
            assert len(row["neighbors"]) == named
    assert "naming" not in dino("knn", one, *index, "--neighbors", 30).stderr
    two = ["--index", write_index(tmp_path / "two.npy", bank[:2], ["a", "b"]), "-k", 1]
    assert "naming" not in dino("knn", *two, "-o", tmp_path / "p.csv").stderr  # 5 by default


def test_predictions_without_neighbours(tmp_path: Path) -> None:
    write_index(tmp_path / "train.npy", *clusters(30, 1))
    out = tmp_path / "p.csv"
    knn("--index", tmp_path / "train.npy", "-o", out, "--neighbors", 0, "--min-similarity", -1)
    with out.open(newline="") as file:
        header, *rows = csv.reader(file)
    assert header == ["path", "predicted", "probability", "label"]
    assert len(rows) == 30
    assert all(row[1] for row in rows)


def test_table_of_accuracies(tmp_path: Path) -> None:
    bank, labels = clusters(30, 1, classes=3, spread=0.01)
    write_index(tmp_path / "train.npy", bank, labels)
    result = dino("knn", "--index", tmp_path / "train.npy", "-k", 3, "-k", 5)
    assert result.stdout == "k\ttop-1 %\ttop-5 %\n3\t100.00\t100.00\n5\t100.00\t100.00\n"


def test_rows_without_label_do_not_vote(tmp_path: Path) -> None:
    bank = np.array([[1, 0], [1, 0.1], [0, 1], [0.1, 1], [1, 0.05]])
    write_index(tmp_path / "train.npy", bank, ["a", "", "b", "b", "a"])
    result = dino(
        "knn", "--index", tmp_path / "train.npy", "-k", "1", "--json", "-o", tmp_path / "p.csv"
    )
    assert "1 of the 5 images of the index have no label and do not vote" in result.stderr
    values = json.loads(result.stdout)
    assert values["k"] == {"1": {"top1": 100.0, "top5": 100.0}}
    assert (values["queries"], values["index"]) == (5, 4)
    with (tmp_path / "p.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["predicted"] for row in rows] == ["a", "a", "b", "b", "a"]
    assert "train/1.jpg" not in {row["neighbor1"] for row in rows}


def test_labels_that_the_index_does_not_know(tmp_path: Path) -> None:
    bank, labels = clusters(30, 1, classes=3, spread=0.01)
    write_index(tmp_path / "train.npy", bank, labels)
    write_index(tmp_path / "some.npy", bank[:4], ["other", *labels[1:3], ""])
    result = dino(
        "knn", tmp_path / "some.npy", "--index", tmp_path / "train.npy", "-k", 3, "--json"
    )
    assert json.loads(result.stdout)["k"] == {"3": {"top1": 100.0, "top5": 100.0}}
    assert "1 of the 4 queries have labels that are no classes" in result.stderr
    write_index(tmp_path / "none.npy", bank[:2], ["other", ""])
    values = knn(tmp_path / "none.npy", "--index", tmp_path / "train.npy", "-k", 3)
    assert values["k"] == {}
    assert values["predictions"] == [
        {"path": "none/0.jpg", "predicted": labels[0], "probability": 1.0},
        {"path": "none/1.jpg", "predicted": labels[1], "probability": 1.0},
    ]
    printed = dino("knn", tmp_path / "none.npy", "--index", tmp_path / "train.npy", "-k", 3).stdout
    assert printed.splitlines()[1] == f"none/0.jpg\t{labels[0]}\t1.000"


def test_an_index_of_another_make_is_refused(tmp_path: Path) -> None:
    bank, labels = clusters(30, 1, classes=3)
    index = tmp_path / "train.npy"
    write_index(index, bank, labels)

    def refusal(**changes: object) -> str:
        write_index(tmp_path / "q.npy", bank, labels, **changes)
        return fails(1, tmp_path / "q.npy", "--index", index)

    text = refusal(model="other", weights_sha256="cd" * 32)
    assert f"'{index}' was made with m (weights abababab), but '{tmp_path}/q.npy' with" in text
    assert "with other (weights cdcdcdcd); embed both" in text
    assert "resize 256, but" in refusal(preprocessing={"resize": 200, "crop": 224})
    assert "features cls, but" in refusal(features="mean")
    assert f"layer -1, but '{tmp_path}/q.npy' with layer 2;" in refusal(layer=2)
    assert "checkpoint_key None, but" in refusal(checkpoint_key="student")
    assert "multi_scale False, but" in refusal(multi_scale=True)
    write_index(tmp_path / "q.npy", bank, labels, multi_scale=False)
    assert knn(tmp_path / "q.npy", "--index", index)["queries"] == 30
    write_index(tmp_path / "q.npy", bank[:, :5], labels)
    assert "dim 8, but" in fails(1, tmp_path / "q.npy", "--index", index)


def test_misuse_is_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bank, labels = clusters(30, 1, classes=3)
    index = ["--index", tmp_path / "train.npy"]
    write_index(tmp_path / "train.npy", bank, labels)
    write_index(tmp_path / "bare.npy", bank, [""] * 30)
    write_index(tmp_path / "single.npy", bank[:1], labels[:1])
    write_index(tmp_path / "one.npy", bank, [labels[0], *[""] * 29])
    write_index(tmp_path / "empty.npy", bank[:0], [])
    (tmp_path / "photo.jpg").write_bytes(b"")
    (tmp_path / "p.skipped.csv").write_text("path,reason\n")
    before = sorted(os.listdir(tmp_path))
    assert "empty.npy' holds no pictures" in fails(1, tmp_path / "empty.npy", *index)
    assert "holds no pictures" in fails(1, "--index", tmp_path / "empty.npy", "--duplicates", 0.9)
    assert "none.npy' does not exist" in fails(1, "--index", tmp_path / "none.npy")
    assert "has no labels; embed a folder" in fails(1, "--index", tmp_path / "bare.npy")
    assert "a single image with a label" in fails(1, "--index", tmp_path / "single.npy")
    assert "a single image with a label" in fails(1, "--index", tmp_path / "one.npy")
    assert "k=0 is not a positive number; use -k 20" in fails(2, *index, "-k", 0)
    assert "temperature 0.0 is not" in fails(2, *index, "--temperature", 0)
    for value in ("nan", "inf"):
        assert f"temperature {value} is not" in fails(2, *index, "--temperature", value)
    assert "--neighbors -1" in fails(2, *index, "--neighbors", -1)
    assert "predictions are .csv" in fails(2, *index, "-o", tmp_path / "p.json")
    assert "does not exist; mkdir" in fails(1, *index, "-o", tmp_path / "no/p.csv")
    assert "already exists" in fails(1, *index, "-o", tmp_path / "bare.csv")
    assert "p.skipped.csv' already exists" in fails(1, *index, "-o", tmp_path / "p.csv")
    own = [*index, "-o", tmp_path / "train.csv", "--overwrite"]
    assert "belongs to the index" in fails(2, *own)
    own = [tmp_path / "bare.npy", *index, "-o", tmp_path / "bare.csv", "--overwrite"]
    assert "belongs to the queries" in fails(2, *own)
    np.save(tmp_path / "train.mean.npy", bank)
    own = ["--index", tmp_path / "train.mean.npy", "-o", tmp_path / "train.csv", "--overwrite"]
    assert "belongs to the index" in fails(2, *own)
    (tmp_path / "train.mean.npy").unlink()
    monkeypatch.chdir(tmp_path)
    own = [*index, "--index", tmp_path / "one.npy", "-o", "one.csv", "--overwrite"]
    assert "belongs to the index" in fails(2, *own)
    for other in ("bare.npy", "photo.jpg"):
        two = [tmp_path / "train.npy", tmp_path / other]
        assert "a feature file beside other queries" in fails(2, *two, *index)
    assert sorted(os.listdir(tmp_path)) == before


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("words", [(), ("--duplicates", "0.9")])
def test_features_that_are_not_finite_are_told_with_their_image(tmp_path, value, words):
    """One such row would make the votes of every query that meets it meaningless, unseen."""
    vectors, labels = clusters(40, 0)
    good = write_index(tmp_path / "good.npy", vectors, labels)
    vectors[17, 3] = value
    bad = write_index(tmp_path / "bad.npy", vectors, labels)
    told = f"the features of 'bad/17.jpg' in {str(bad)!r} are not finite"
    assert told in fails(1, "--index", bad, *words)
    assert told in fails(1, "--index", good, "--index", bad, *words)
    if not words:
        assert told in fails(1, bad, "--index", good)
        assert told in fails(1, good, "--index", bad)
