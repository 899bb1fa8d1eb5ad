"""The folder of blocks and the files made of it: always the same bytes, in little memory."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from traced_memory import traced_memory

from dino_cli.errors import TaskError
from dino_cli.store.embeddings.blocks import Blocks, Row
from dino_cli.store.embeddings.formats import export_files
from dino_cli.store.embeddings.reading import open_export
from dino_cli.store.embeddings.sources import read_sources
from dino_cli.store.embeddings.writing import write_export
from dino_cli.tasks.embed.merge import EarlierExport, MergedBlocks

FORMATS = ["npy", "npz", "safetensors", "parquet", "csv"]


def features(rows: int, width: int = 6) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(rows, width)).astype(np.float32)


def fill(output: Path, size: int, values: np.ndarray, odd: str = "") -> Blocks:
    blocks = Blocks(output)
    blocks.start({"a": 1}, size, len(values))
    for number in reversed(range(blocks.count)):  # whichever comes first
        span = blocks.span(number)
        rows = [Row(f"p/{i}{odd}.jpg", "ab"[i % 2], f"{i:064x}") for i in span]
        blocks.write(number, {"cls": [values[i : i + 1] for i in span]}, rows, [], [])
    return blocks


def export(folder: Path, suffix: str, size: int, values: np.ndarray, odd: str = "") -> list[bytes]:
    folder.mkdir()
    output = folder / f"f.{suffix}"
    blocks = fill(output, size, values, odd)
    merged = MergedBlocks(["cls"], blocks)
    facts = {
        "features": "cls",
        "arrays": {"cls": {"shape": [values.shape[1]], "dtype": "<f4"}},
        "classes": sorted(merged.classes),
    }
    write_export(blocks.finished(), output.name, merged, facts)
    blocks.publish()
    written = export_files(output, ["cls"])
    assert sorted(folder.iterdir()) == sorted(written)
    assert read_sources(output, len(values))[0] == [f"{i:064x}" for i in range(len(values))]
    return [path.read_bytes() for path in written]


@pytest.mark.parametrize("suffix", FORMATS)
def test_the_blocks_do_not_show_in_the_bytes(tmp_path: Path, suffix: str) -> None:
    if suffix == "parquet":
        pytest.importorskip("pyarrow")
    values = features(1100)  # more than a row group of .parquet
    results = [
        export(tmp_path / str(size), suffix, size, values, odd=',"\n\\')
        for size in (300, 509, len(values))
    ]
    assert results[0] == results[1] == results[2]


@pytest.mark.slow
@pytest.mark.parametrize("suffix", FORMATS)
def test_memory_does_not_grow_with_the_rows(tmp_path: Path, suffix: str) -> None:
    if suffix == "parquet":
        pytest.importorskip("pyarrow")
    peaks = []
    export(tmp_path / "warm", suffix, 64, features(64, 96))  # imports and caches
    for rows in (1000, 8000):
        values = features(rows, 96)
        with traced_memory() as traced:
            export(tmp_path / str(rows), suffix, 64, values)
        peaks.append(traced.most)
    # The test itself holds the bytes at the end; what is left of the growth is small.
    held = sum(path.stat().st_size for path in (tmp_path / "8000").iterdir())
    assert peaks[1] - peaks[0] < held + 1_000_000


def test_what_cannot_be_an_interrupted_run(tmp_path: Path) -> None:
    blocks = Blocks(tmp_path / "f.npy")
    assert not blocks.exists()
    assert not blocks.recover()
    assert blocks.done() == []
    fill(tmp_path / "f.npy", 2, features(4))
    with pytest.raises(TaskError, match="was made with a 1, not 2"):
        Blocks(tmp_path / "f.npy").open({"a": 2})
    Blocks(tmp_path / "f.npy").open({"a": 1})
    (tmp_path / "f.npy.part/run.json").write_text("{")
    with pytest.raises(TaskError, match="is no interrupted run"):
        Blocks(tmp_path / "f.npy").open({"a": 1})
    # What a kill leaves of a file that was being written does no harm.
    (tmp_path / "f.npy.part/.00000000.npz.x.part").write_bytes(b"half")
    again = fill(tmp_path / "f.npy", 4, features(4))
    assert again.done() == [0]
    assert sorted(p.name for p in again.folder.iterdir()) == ["00000000.npz", "run.json"]


def test_what_an_interrupted_run_says_of_itself_is_kept(tmp_path: Path) -> None:
    blocks = Blocks(tmp_path / "f.npy")
    blocks.start({"a": 1}, 2, 4, replaces=True)
    again = Blocks(tmp_path / "f.npy")
    assert again.open({"a": 1}) == 0
    assert (again.size, again.files, again.resumed, again.replaces) == (2, 4, True, True)
    said = json.loads((blocks.folder / "run.json").read_text())
    for wrong in ({"size": 0}, {"files": -1}, {"format": 2}, {"run": []}):
        (blocks.folder / "run.json").write_text(json.dumps({**said, **wrong}))
        with pytest.raises(TaskError, match="is no interrupted run"):
            Blocks(tmp_path / "f.npy").open({"a": 1})


def test_blocks_that_are_not_whole_are_made_again(tmp_path: Path) -> None:
    output, one = tmp_path / "f.npy", np.ones((1, 3), np.float32)
    blocks = Blocks(output)
    blocks.start({}, 1, 6)
    rows = [Row("a.jpg", ""), Row(7, ""), Row("c.jpg", ""), Row("d.jpg", "")]  # type: ignore[arg-type]
    for number, row in enumerate(rows):
        blocks.write(number, {"cls": [one]}, [row], [], [b"a picture"])
    blocks.write(2, {"cls": [one, one]}, [rows[2]], [], [])  # of more features than rows
    content = blocks.file(3).read_bytes()
    assert content.count(b"a picture") == 1  # stored as it is: damage there is no other's
    blocks.file(3).write_bytes(content.replace(b"a picture", b"a Picture"))
    blocks.write(4, {}, [], [("e.jpg", "empty file")], [])
    shutil.copy(blocks.file(0), blocks.file(6))  # beyond the last
    assert Blocks(output).open({}) == 4
    assert blocks.done() == [0, 4]
    assert blocks.block(0).thumbnails() == [b"a picture"]
    assert blocks.block(4).thumbnails() == []
    blocks.file(10**8).touch()
    assert blocks.done() == [0, 4, 10**8]


def test_a_folder_of_blocks_is_begun_where_nothing_is_in_the_way(tmp_path: Path) -> None:
    blocks = Blocks(tmp_path / "f.npy")
    blocks.folder.mkdir()
    (blocks.folder / ".run.json.x.part").write_text("{")  # of a kill at the very beginning
    blocks.start({}, 1, 1)
    assert [path.name for path in blocks.folder.iterdir()] == ["run.json"]
    other = Blocks(tmp_path / "g.npy")
    other.folder.write_text("mine")
    with pytest.raises(TaskError, match=r"g\.npy\.part' is no interrupted run"):
        other.start({}, 1, 1)
    assert other.folder.read_text() == "mine"


def test_blocks_of_other_grids_are_told(tmp_path: Path) -> None:
    blocks = Blocks(tmp_path / "f.npy")
    blocks.start({}, 1, 2)
    for number, shape in enumerate([(1, 2, 3, 4), (1, 3, 2, 4)]):
        array = np.zeros(shape, np.float16)
        blocks.write(number, {"patch": [array]}, [Row(f"{number}.jpg", "")], [], [])
    with pytest.raises(TaskError, match=r"'1.jpg' has 3 x 2 patches, but .* have 2 x 3"):
        MergedBlocks(["patch"], blocks)


def test_rows_of_an_earlier_export_stay_in_their_order_before_the_new_ones(tmp_path: Path) -> None:
    values = features(1025)  # one more than are read at a time
    export(tmp_path / "old", "npy", 300, values)
    old = open_export(tmp_path / "old/f.npy")
    keep = np.ones(len(values), np.bool_)
    keep[[0, 7, 1000]] = False
    digests = [f"{i:064x}" for i in range(len(values))]
    new = fill(tmp_path / "g.npy", 2, features(3) + 1, "new")
    merged = MergedBlocks(["cls"], new, EarlierExport(old, digests, keep))
    expected = np.concatenate([values[keep], features(3) + 1])
    np.testing.assert_array_equal(np.concatenate(list(merged.arrays("cls"))), expected)
    kept = [i for i in range(len(values)) if keep[i]]
    rows = [Row(f"p/{i}.jpg", "ab"[i % 2], f"{i:064x}") for i in kept]
    assert list(merged.rows())[: len(kept)] == rows
    assert [row.path for row in merged.rows()][len(kept) :] == [f"p/{i}new.jpg" for i in range(3)]
    assert merged.count == len(expected)
