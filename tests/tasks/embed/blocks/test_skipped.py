"""What an interrupted run skipped is tried again when it goes on, as under another limit."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from feature_files import export_files
from in_process import embed
from interruptions import interrupt_after

from dino_cli.store.embeddings.reading import open_export

LIMIT = 2010  # the pictures of `photos` have 2000, 2009, 2016 and 2021 pixels, by their names


@pytest.fixture
def interrupted(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., None]:
    """`dino embed photos -o f.npy`, stopped after two of four blocks of three pictures."""

    def run(*options: object, photos: object = photos) -> None:
        with monkeypatch.context() as patch:
            interrupt_after(2, patch)
            embed(photos, "-o", tmp_path / "f.npy", *options, code=130)
        assert len(list((tmp_path / "f.npy.part").glob("0*.npz"))) == 2

    return run


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
@pytest.mark.parametrize("limit", [[], ["--max-pixels", 3000], ["--max-pixels", 2016]])
def test_a_higher_limit_takes_what_was_too_large(
    photos: Path,
    tmp_path: Path,
    fixed: list[object],
    seen: list[int],
    interrupted: Callable[..., None],
    limit: list[object],
    workers: int,
) -> None:
    (photos / "blue/1.png").write_bytes(b"")  # never readable
    fixed = [*fixed, "--workers", workers]
    embed(photos, "-o", tmp_path / "whole.npy", *fixed, *limit)
    interrupted(*fixed, "--max-pixels", LIMIT)
    seen.clear()
    out = ["-o", tmp_path / "f.npy", *(word for word in fixed if word != "--quiet")]
    done = embed(photos, *out, *limit, "--resume", "--json")
    made, whole = (export_files(tmp_path, stem) for stem in ("f.", "whole."))
    told = made.pop("skipped.csv").decode()
    assert len(told.splitlines()) == len(whole.pop("skipped.csv").decode().splitlines())
    assert made == whole
    result = json.loads(done.stdout)
    count, skipped = (8, 4) if 2016 in limit else (11, 1)
    assert (result["count"], result["skipped"]) == (count, skipped)
    mended = 1 if 2016 in limit else 2
    were = "picture that was skipped" if mended == 1 else "pictures that were skipped"
    assert f"{mended} {were} can be read now" in " ".join(done.stderr.split())
    assert told.count(f"more than {LIMIT} pixels") == skipped // 4  # blue/3, in a block that stays


def test_a_lower_limit_leaves_the_rows_that_there_are(
    photos: Path,
    tmp_path: Path,
    fixed: list[object],
    seen: list[int],
    interrupted: Callable[..., None],
) -> None:
    """As `--append` does, and it takes them when the limit is higher again."""
    out = [photos, "-o", tmp_path / "f.npy", *fixed, "--json"]
    interrupted(*fixed)
    seen.clear()
    result = json.loads(embed(*out, "--resume", "--max-pixels", LIMIT).stdout)
    assert (result["count"], result["skipped"], sum(seen)) == (8, 4, 2)
    paths = [Path(path).relative_to(photos).as_posix() for path in open_export(out[2]).paths]
    assert paths == [*(f"blue/{i}.png" for i in range(4)), "green/0.png", "green/1.png",
                     "red/0.png", "red/1.png"]  # fmt: skip
    same = json.loads(embed(*out, "--resume", "--max-pixels", LIMIT).stdout)
    assert (same["count"], same["skipped"], same["embedded"]) == (8, 4, 0)
    grown = json.loads(embed(*out, "--append").stdout)
    assert (grown["count"], grown["skipped"], grown["embedded"]) == (12, 0, 4)


@pytest.mark.parametrize("called", ["photos", "../photos"])
def test_blocks_whose_files_are_still_unreadable_stay(
    photos: Path,
    tmp_path: Path,
    fixed: list[object],
    seen: list[int],
    interrupted: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
    called: str,
) -> None:
    """From elsewhere too; and of two blocks only that of a picture that can be read goes."""
    monkeypatch.chdir(tmp_path)
    (photos / "blue/1.png").write_bytes(b"")
    (photos / "green/0.png").write_bytes(b"")
    interrupted(*fixed, "--max-pixels", LIMIT, photos="photos")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    if called != "photos":
        monkeypatch.chdir(elsewhere)
    kept = tmp_path / "kept"
    shutil.copytree(tmp_path / "f.npy.part", kept)
    out = ["-o", tmp_path / "f.npy", *fixed, "--resume", "--json"]
    seen.clear()
    result = json.loads(embed(called, *out, "--max-pixels", LIMIT).stdout)
    assert (result["count"], result["skipped"]) == (4, 8)
    assert sum(seen) == 2  # of the blocks that were missing

    for path in tmp_path.glob("f.*"):
        path.unlink()
    shutil.copytree(kept, tmp_path / "f.npy.part")
    seen.clear()
    result = json.loads(embed(called, *out, "--max-pixels", 2016).stdout)
    assert (result["count"], result["skipped"]) == (7, 5)
    assert sum(seen) == 2 + 4  # blue/0 and blue/2 again; green/2, red/0, red/1 and red/2
