"""Feature files: what is written, what is left behind, what is refused."""

import csv
import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from dino_cli.errors import TaskError
from dino_cli.store import embeddings
from dino_cli.store.embeddings import read_embeddings, writing
from dino_cli.store.tables import check_targets, csv_table, write_skipped


def write(path: Path, rows: int = 5, capacity: int = 8, batch: int = 2, dim: int = 3) -> np.ndarray:
    features = np.random.default_rng(0).normal(size=(rows, dim)).astype(np.float32)
    names = [(f"a/{i}.jpg", "ab"[i % 2]) for i in range(rows)]
    with writing(path, capacity, lambda w: {"count": w.count, "dim": w.dim}) as writer:
        for start in range(0, rows, batch):
            writer.append(features[start : start + batch], names[start : start + batch])
        assert os.listdir(path.parent)
        assert not path.exists()
    assert writer.classes == set("ab"[:rows])
    return features


def test_what_is_written_is_read(tmp_path: Path) -> None:
    features = write(tmp_path / "feats.npy")
    plain = np.load(tmp_path / "feats.npy")  # any program can
    assert plain.dtype == np.float32
    np.testing.assert_array_equal(plain, features)
    assert (tmp_path / "feats.npy").stat().st_size == 128 + 5 * 3 * 4  # cut to the true count
    found = read_embeddings(tmp_path / "feats.npy")
    assert found.features.shape == (5, 3)
    for rows in (slice(0, 2), slice(1, 99), slice(3, 5), slice(None)):
        np.testing.assert_array_equal(found.features[rows], features[rows])
    assert found.paths == [f"a/{i}.jpg" for i in range(5)]
    assert found.labels == ["a", "b", "a", "b", "a"]
    assert found.metadata == {"format": 1, "count": 5, "dim": 3}
    assert sorted(os.listdir(tmp_path)) == ["feats.csv", "feats.json", "feats.npy"]


@pytest.mark.parametrize("capacity", [1, 9, 10, 99, 100_000])
def test_headers_of_any_size_are_valid(tmp_path: Path, capacity: int) -> None:
    features = write(tmp_path / "x.npy", rows=1, capacity=capacity, dim=1025)[:1]
    np.testing.assert_array_equal(np.load(tmp_path / "x.npy"), features)


def write_one(path: Path) -> None:
    with writing(path, 1, lambda _: {}) as writer:
        writer.append(np.zeros((1, 2), np.float32), [("p", "")])


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_nothing_new_is_left_by_a_failure(tmp_path: Path, error: type[BaseException]) -> None:
    (tmp_path / "x.json").write_text("old")

    def fails() -> None:
        with writing(tmp_path / "x.npy", 1, lambda _: {}) as writer:
            writer.append(np.zeros((1, 2), np.float32), [("p", "")])
            raise error

    with pytest.raises(error):
        fails()
    assert os.listdir(tmp_path) == ["x.json"]
    assert (tmp_path / "x.json").read_text() == "old"


def test_all_three_or_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The last rename fails: the files that already have their names go away again."""
    real = Path.replace

    def replace(self: Path, target: Path) -> Path:
        if target.suffix == ".npy":
            raise OSError(28, "No space left on device")
        return real(self, target)

    monkeypatch.setattr(Path, "replace", replace)
    with pytest.raises(TaskError, match=r"cannot write .*x\.npy': No space left on device"):
        write_one(tmp_path / "x.npy")
    assert os.listdir(tmp_path) == []


def test_a_full_disk_is_told_at_the_first_batch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def full(descriptor: int, offset: int, size: int) -> None:
        asked.append(size)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(embeddings.os, "posix_fallocate", full)
    with pytest.raises(TaskError, match="No space left on device; free some space"):
        write(tmp_path / "x.npy", capacity=1000)
    assert asked == [128 + 1000 * 3 * 4]
    assert os.listdir(tmp_path) == []


def test_odd_paths_survive(tmp_path: Path) -> None:
    odd = ['a,b "c".jpg', "new\nline.jpg", os.fsdecode(b"\xff\xe9.jpg"), "ünï/😀.jpg", " space "]
    with writing(tmp_path / "x.npy", 9, lambda _: {}) as writer:
        writer.append(np.zeros((5, 2), np.float32), [(name, name) for name in odd])
    found = read_embeddings(tmp_path / "x.npy")
    assert found.paths == found.labels == odd


def damage_json(text: str) -> Callable[[Path], None]:
    return lambda folder: (folder / "x.json").write_text(text) and None


def remove(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


def shorten(folder: Path) -> None:
    table = folder / "x.csv"
    table.write_text("\n".join(table.read_text().splitlines()[:-1]) + "\n")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (remove("x.npy"), r"x\.npy' does not exist"),
        (remove("x.csv"), r"x\.csv', a part of .*x\.npy', does not exist"),
        (remove("x.json"), r"x\.json', a part of .*x\.npy', does not exist"),
        (damage_json("{"), "was not made by `dino`"),
        (damage_json("[]"), "was not made by `dino`"),
        (damage_json('{"format": 2}'), "was not made by `dino`"),
        (lambda folder: (folder / "x.csv").write_text("a,b\n") and None, "was not made by `dino`"),
        (shorten, "has 5 rows, but .* has 4"),
        (lambda folder: (folder / "x.npy").write_bytes(b"no") and None, "not a .npy file"),
        (lambda folder: np.save(folder / "x.npy", np.zeros(5)), r"holds float64 \(5,\)"),
        (lambda folder: np.save(folder / "x.npy", np.zeros((5, 2), int)), "holds int64"),
    ],
)
def test_damaged_files_are_refused(
    tmp_path: Path, damage: Callable[[Path], None], message: str
) -> None:
    write(tmp_path / "x.npy")
    damage(tmp_path)
    with pytest.raises(TaskError, match=message):
        read_embeddings(tmp_path / "x.npy")


def test_targets(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("mine")
    targets = [tmp_path / "x.npy", tmp_path / "x.csv"]
    with pytest.raises(TaskError, match=r"x\.csv' exists already; use --overwrite"):
        check_targets(targets, overwrite=False)
    check_targets(targets, overwrite=True)
    with pytest.raises(TaskError, match="none' does not exist"):
        check_targets([tmp_path / "none" / "x.npy"], overwrite=True)
    (tmp_path / "d.npy").mkdir()
    with pytest.raises(TaskError, match="is a folder"):
        check_targets([tmp_path / "d.npy"], overwrite=True)


def test_list_of_skipped_files(tmp_path: Path) -> None:
    path = write_skipped(tmp_path / "x.npy", [("a,b.jpg", "empty file")])
    assert path == tmp_path / "x.skipped.csv"
    with path.open(newline="") as file:
        assert list(csv.reader(file)) == [["path", "reason"], ["a,b.jpg", "empty file"]]
    assert write_skipped(tmp_path / "x.npy", []) is None
    assert os.listdir(tmp_path) == []  # a list of an earlier run would mislead


def test_a_failed_table_leaves_nothing(tmp_path: Path) -> None:
    def fails() -> None:
        with csv_table(tmp_path / "t.csv", ["a"]) as row:
            row([1])
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fails()
    assert os.listdir(tmp_path) == []


def test_json_is_readable_text(tmp_path: Path) -> None:
    with writing(tmp_path / "x.npy", 1, lambda _: {"classes": ["Bär"]}) as writer:
        writer.append(np.zeros((1, 2), np.float32), [("p", "Bär")])
    assert "Bär" in (tmp_path / "x.json").read_text(encoding="utf-8")
    assert json.loads((tmp_path / "x.json").read_text())["format"] == 1
