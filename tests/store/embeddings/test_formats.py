"""Feature files: what is written, what is left behind, what is refused."""

import csv
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
from feature_files import write_features

from dino_cli.errors import TaskError
from dino_cli.store.embeddings.blocks import Row
from dino_cli.store.embeddings.parquet import (
    Projection,
    parquet_projection,
    parquet_thumbnails,
    write_parquet,
)
from dino_cli.store.embeddings.reading import read_embeddings
from dino_cli.store.writing.tables import csv_table, write_skipped
from dino_cli.store.writing.targets import check_files


def write(path: Path) -> np.ndarray:
    features = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
    write_features(path, features, [(f"a/{i}.jpg", "ab"[i % 2]) for i in range(5)], count=5, dim=3)
    return features


def test_what_any_program_writes_is_read(tmp_path: Path) -> None:
    features = write(tmp_path / "feats.npy")
    found = read_embeddings(tmp_path / "feats.npy")
    assert found.features.shape == (5, 3)
    for rows in (slice(0, 2), slice(1, 99), slice(3, 5), slice(None)):
        np.testing.assert_array_equal(found.features[rows], features[rows])
    assert found.paths == [f"a/{i}.jpg" for i in range(5)]
    assert found.labels == ["a", "b", "a", "b", "a"]
    assert found.metadata == {"format": 1, "count": 5, "dim": 3}


def test_odd_paths_survive(tmp_path: Path) -> None:
    odd = ['a,b "c".jpg', "new\nline.jpg", os.fsdecode(b"\xff\xe9.jpg"), "ünï/😀.jpg", " space "]
    write_features(tmp_path / "x.npy", np.zeros((5, 2)), [(name, name) for name in odd])
    found = read_embeddings(tmp_path / "x.npy")
    assert found.paths == found.labels == odd


class OneRow:
    """What `write_parquet` is given."""

    count = 1
    shapes: ClassVar = {"cls": ((4,), "<f4")}

    def arrays(self, kind: str) -> Iterator[np.ndarray]:
        yield np.ones((1, 4), np.float32)

    def rows(self) -> Iterator[Row]:
        yield Row("/a.jpg", "a")

    def thumbnails(self) -> Iterator[bytes]:
        yield from ()


def test_a_parquet_whose_own_name_is_no_utf8(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    path = tmp_path / os.fsdecode(b"caf\xe9.parquet")
    write_parquet(path, OneRow(), {"format": 1, "features": "cls", "arrays": {"cls": {}}}, None)
    found = read_embeddings(path)
    assert found.paths == ["/a.jpg"]
    assert found.features[0:1].tolist() == [[1.0] * 4]


class ManyRows:
    """2500 rows, in pieces that end where no row group does; some names are no UTF-8."""

    count = 2500
    shapes: ClassVar = {"cls": ((4,), "<f4"), "mean": ((2,), "<f4")}
    vectors = np.random.default_rng(0).normal(size=(count, 4)).astype(np.float32)
    named: ClassVar = [
        Row(f"p/{i}{os.fsdecode(bytes([233])) * (i % 1000 == 7)}.jpg", "ab"[i % 2])
        for i in range(count)
    ]

    def arrays(self, kind: str) -> Iterator[np.ndarray]:
        values = self.vectors if kind == "cls" else self.vectors[:, 2:]
        yield from np.split(values, [3, 1000, 1700])

    def rows(self) -> Iterator[Row]:
        return iter(self.named)

    def thumbnails(self) -> Iterator[bytes]:
        return (f"picture {i}".encode() for i in range(self.count))


def test_a_parquet_of_several_row_groups(tmp_path: Path) -> None:
    pq = pytest.importorskip("pyarrow.parquet")
    many, path = ManyRows(), tmp_path / "f.parquet"
    rng = np.random.default_rng(1)
    projection = Projection(
        rng.normal(size=(many.count, 2)).astype(np.float32),
        rng.integers(0, many.count, (many.count, 3)),
        rng.random((many.count, 3)).astype(np.float32),
    )
    facts = {"format": 1, "features": "cls", "arrays": {"cls": {}, "mean": {}}, "thumbnails": True}
    write_parquet(path, many, facts, projection)
    groups = pq.ParquetFile(path).metadata
    assert [groups.row_group(i).num_rows for i in range(3)] == [1024, 1024, 452]
    found = read_embeddings(path)
    assert found.paths == [row.path for row in many.named]
    assert found.labels == [row.label for row in many.named]
    assert found.metadata == facts
    for rows in (
        slice(0, 9),
        slice(1500, 1600),
        slice(1000, 2100),
        slice(7, 2500),
        slice(2048, 2049),
    ):
        np.testing.assert_array_equal(found.features[rows], many.vectors[rows])
        np.testing.assert_array_equal(found.arrays["mean"][rows], many.vectors[rows, 2:])
    assert list(parquet_thumbnails(path)) == list(many.thumbnails())
    back = parquet_projection(path)
    assert back is not None
    for name in ("places", "neighbors", "distances"):
        np.testing.assert_array_equal(getattr(back, name), getattr(projection, name))
    # In the table the picture is called as its file is, without the folders.
    names = [row["path"] for row in pq.read_table(path)["image"].to_pylist()]
    assert (names[5], names[7], names[2007]) == ("5.jpg", r"7\xe9.jpg", r"2007\xe9.jpg")


def test_places_that_are_damaged_are_told(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    path, none = tmp_path / "f.parquet", np.zeros((1, 0))
    for place in (np.nan, np.inf):
        facts = {"format": 1, "features": "cls", "arrays": {"cls": {}}}
        places = np.array([[0, place]], np.float32)
        write_parquet(path, OneRow(), facts, Projection(places, none.astype(np.int64), none))
        with pytest.raises(TaskError, match=r"f\.parquet' is damaged; make it again"):
            parquet_projection(path)


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
    with pytest.raises(TaskError, match=r"x\.csv' already exists; use --overwrite"):
        check_files(targets, overwrite=False)
    check_files(targets, overwrite=True)
    with pytest.raises(TaskError, match="none' does not exist"):
        check_files([tmp_path / "none" / "x.npy"], overwrite=True)
    (tmp_path / "d.npy").mkdir()
    with pytest.raises(TaskError, match="is a folder"):
        check_files([tmp_path / "d.npy"], overwrite=True)


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
