"""Exports that grow: `dino embed --append`."""

import json
import os
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest
from feature_files import export_files
from in_process import embed
from PIL import Image

from dino_cli.store.embeddings.parquet import parquet_projection, parquet_thumbnails
from dino_cli.store.embeddings.reading import read_embeddings


@pytest.mark.parametrize("suffix", ["npy", "parquet"])
def test_append_embeds_what_is_new(
    photos: Path, tmp_path: Path, fixed: list[object], seen: list[int], suffix: str
) -> None:
    if suffix == "parquet":
        pytest.importorskip("pyarrow")
        fixed = [*fixed, "--thumbnails"]
    moved = tmp_path / "later"
    shutil.move(photos / "red", moved)
    out = [photos, "-o", tmp_path / f"f.{suffix}", *fixed, "--append", "--json"]
    assert json.loads(embed(*out).stdout)["count"] == 8  # nothing there yet: it begins
    first = export_files(tmp_path, "f.")
    seen.clear()
    same = json.loads(embed(*out).stdout)
    assert (same["count"], same["embedded"], seen) == (8, 0, [])
    assert export_files(tmp_path, "f.") == first

    shutil.move(moved, photos / "red")
    shutil.copy(photos / "blue/0.png", photos / "blue/copy.png")
    shutil.copy(photos / "green/0.png", photos / "blue/1.png")  # the file's content has changed
    result = embed(*out)
    assert json.loads(result.stdout)["count"] == 12
    assert sum(seen) == 5  # four red ones, and the changed one
    everything = [p for p in sorted(photos.glob("*/*.png")) if p.name != "copy.png"]
    embed(*everything, "-o", tmp_path / f"fresh.{suffix}", *fixed)
    grown = read_embeddings(tmp_path / f"f.{suffix}")
    fresh = read_embeddings(tmp_path / f"fresh.{suffix}")
    assert sorted(grown.paths) == sorted(fresh.paths)
    rows = [grown.paths.index(path) for path in fresh.paths]
    np.testing.assert_array_equal(grown.features[0:12][rows], fresh.features[0:12])
    if suffix == "parquet":
        beside = list(parquet_thumbnails(grown.path))
        assert [beside[row] for row in rows] == list(parquet_thumbnails(fresh.path))
    assert grown.metadata["classes"] == ["blue", "green", "red"]
    sources = (tmp_path / f"f.{suffix}.sources").read_text().splitlines()
    assert [line[66:] for line in sources] == grown.paths
    assert "was made with normalize False, not True" in embed(*out, "--normalize", code=1).stderr


@pytest.mark.parametrize("suffix", ["npy", "parquet"])
def test_rows_follow_pictures_that_moved(
    photos: Path, tmp_path: Path, fixed: list[object], seen: list[int], suffix: str
) -> None:
    if suffix == "parquet":
        pytest.importorskip("pyarrow")
    out = [photos, "-o", tmp_path / f"f.{suffix}", *fixed, "--json"]
    embed(*out)
    shutil.move(photos / "red/0.png", photos / "blue/moved.png")
    shutil.copy(photos / "red/1.png", photos / "red/0.png")  # another takes its place
    shutil.move(photos / "red/3.png", photos / "green/3b.png")
    seen.clear()
    assert "blue/moved.png' now; change its row" in embed(*out, "--resume", code=1).stderr
    assert json.loads(embed(*out, "--append").stdout)["embedded"] == 1
    assert sum(seen) == 1
    embed(photos, "-o", tmp_path / f"fresh.{suffix}", *fixed)
    grown, fresh = (read_embeddings(tmp_path / f"{name}.{suffix}") for name in ("f", "fresh"))
    rows = [grown.paths.index(path) for path in fresh.paths]
    assert sorted(rows) == list(range(13))
    assert [grown.labels[row] for row in rows] == fresh.labels
    np.testing.assert_array_equal(grown.features[0:13][rows], fresh.features[0:13])
    sources = (tmp_path / f"f.{suffix}.sources").read_text().splitlines()
    assert [line[66:] for line in sources] == grown.paths


def test_labels_follow_a_list(photos: Path, tmp_path: Path, fixed: list[object]) -> None:
    names = tmp_path / "names.txt"
    names.write_text("photos/red/0.png\tred\nphotos/red/1.png\tred\n")
    noisy = [word for word in fixed if word != "--quiet"]
    out = [names, "-o", tmp_path / "f.npy", *noisy]
    embed(*out)
    names.write_text("photos/red/0.png\tred\nphotos/red/1.png\trose\n")
    told = embed(*out, "--resume", code=1).stderr
    assert "/red/1.png' is of class 'rose' now, not 'red'; change its row with --append" in told
    told = embed(*out, "--append").stderr
    assert "1 picture has another path or class now, which the old rows take over" in told
    export = read_embeddings(tmp_path / "f.npy")
    assert (export.labels, export.metadata["classes"]) == (["red", "rose"], ["red", "rose"])
    embed(photos / "red/0.png", *out[1:], "--append")  # of no class: says nothing against it
    assert read_embeddings(tmp_path / "f.npy").labels == ["red", "rose"]


def test_append_keeps_places_and_makes_them(
    photos: Path, tmp_path: Path, fixed: list[object], seen: list[int]
) -> None:
    pytest.importorskip("pyarrow")
    moved = tmp_path / "later"
    shutil.move(photos / "red", moved)
    out = [photos, "-o", tmp_path / "f.parquet", *fixed]
    embed(*out)
    assert parquet_projection(tmp_path / "f.parquet") is None
    seen.clear()
    assert (
        "finished already, without --project" in embed(*out, "--resume", "--project", code=1).stderr
    )
    result = json.loads(embed(*out, "--append", "--project", "--json").stdout)
    assert (result["count"], result["embedded"], seen) == (8, 0, [])
    first = parquet_projection(tmp_path / "f.parquet")
    assert first is not None
    assert first.places.shape == (8, 2)
    unchanged = export_files(tmp_path, "f.")
    assert json.loads(embed(*out, "--append", "--project", "--json").stdout)["embedded"] == 0
    assert export_files(tmp_path, "f.") == unchanged
    shutil.move(moved, photos / "red")
    assert json.loads(embed(*out, "--append", "--json").stdout)["embedded"] == 4
    grown = parquet_projection(tmp_path / "f.parquet")
    assert grown is not None
    assert (grown.places.shape, grown.neighbors.shape) == ((12, 2), (12, 11))
    embed(photos / "blue", photos / "green", photos / "red", "-o", tmp_path / "w.parquet", *fixed,
        "--project")  # fmt: skip
    whole = parquet_projection(tmp_path / "w.parquet")
    assert whole is not None
    np.testing.assert_array_equal(grown.neighbors, whole.neighbors)


def test_names_that_are_no_utf8_are_told_of_in_a_parquet(
    photos: Path, tmp_path: Path, fixed: list[object]
) -> None:
    pytest.importorskip("pyarrow")
    for old, new in (("2.png", b"a\xfe.png"), ("3.png", b"a\xff.png")):
        (photos / "red" / old).rename(photos / "red" / os.fsdecode(new))
    noisy = [word for word in fixed if word != "--quiet"]
    out = [photos, "-o", tmp_path / "f.parquet", *noisy]
    told = " ".join(embed(*out).stderr.split())
    assert f"2 paths, the first '{photos}/red/a\\xfe.png', are not valid UTF-8: " in told
    sources = (tmp_path / "f.parquet.sources").read_bytes()
    assert b"/red/a\xfe.png\n" in sources
    again = embed(*out, "--resume", "--json")
    assert json.loads(again.stdout)["embedded"] == 0
    Image.new("RGB", (50, 40)).save(photos / "red/x.png")
    assert json.loads(embed(*out, "--append", "--json").stdout)["embedded"] == 1
    assert (tmp_path / "f.parquet.sources").read_bytes().startswith(sources)


def test_what_cannot_be_read_is_not_new(photos: Path, tmp_path: Path, fixed: list[object]) -> None:
    out = [photos, "-o", tmp_path / "f.npy", *fixed, "--append"]
    embed(*out)
    (photos / "red/broken.png").write_bytes(b"")
    told = embed(*out).stdout
    assert f"f.npy: 12 x 64 (0 new), 1 skipped (see {tmp_path}/f.skipped.csv)" in told
    assert "images/s" not in told
    Image.new("RGB", (50, 40)).save(photos / "red/x.png")
    assert "f.npy: 13 x 64 (1 new), 1 skipped" in embed(*out).stdout
    Image.new("RGB", (50, 41)).save(photos / "red/broken.png")
    assert "f.npy: 14 x 64 (1 new)" in embed(*out).stdout
    assert not (tmp_path / "f.skipped.csv").exists()


@pytest.mark.parametrize(
    ("suffix", "option", "words"),
    [
        ("npy", ["--multi-scale"], "multi_scale False, not True"),
        ("npy", ["--precision", "bf16"], "precision fp32, not bf16"),
        ("parquet", ["--thumbnails"], "thumbnails False, not True"),
    ],
)
def test_new_rows_are_made_as_the_old_ones(
    photos: Path, tmp_path: Path, fixed: list[object], suffix: str, option: list[object], words: str
) -> None:
    if suffix == "parquet":
        pytest.importorskip("pyarrow")
    out = ["-o", tmp_path / f"f.{suffix}", *fixed]
    embed(photos / "red/0.png", *out)
    before = export_files(tmp_path, "f.")
    told = embed(photos / "red", *out, "--append", *option, code=1).stderr
    assert f"was made with {words}; give the same options as then" in told
    assert export_files(tmp_path, "f.") == before


def test_rows_of_a_shard_stay_while_it_is_there(
    photos: Path, tmp_path: Path, fixed: list[object], seen: list[int]
) -> None:
    """A copy of it brings nothing new; when it is gone, its rows are the copy's, in their order."""
    shutil.copy(photos / "red/0.png", photos / "red/again.png")
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        tar.add(photos / "red", "red")
    out = ["-o", tmp_path / "f.npy", *fixed, "--append", "--json"]
    embed(tmp_path / "a.tar", *out)
    inside = [f"red/{name}.png" for name in (0, 1, 2, 3, "again")]
    shutil.copy(tmp_path / "a.tar", tmp_path / "b.tar")
    seen.clear()
    for shards, owner in ((["a.tar", "b.tar"], "a.tar"), (["b.tar"], "b.tar")):
        result = json.loads(embed(*(tmp_path / name for name in shards), *out).stdout)
        assert (result["count"], result["embedded"], seen) == (5, 0, [])
        paths = read_embeddings(tmp_path / "f.npy").paths
        assert paths == [f"{tmp_path}/{owner}/{name}" for name in inside]
        (tmp_path / "a.tar").unlink(missing_ok=True)


def test_rows_of_a_table_that_moved_keep_absolute_paths(
    photos: Path, tmp_path: Path, fixed: list[object], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("pyarrow")
    monkeypatch.chdir(tmp_path)
    embed("photos/red", "-o", "f.parquet", *fixed)
    (photos / "red/0.png").rename(photos / "red/9.png")
    embed("photos/red", "-o", "f.parquet", *fixed, "--append")
    paths = read_embeddings(Path("f.parquet")).paths
    assert paths == [f"{photos}/red/{i}.png" for i in (9, 1, 2, 3)]
