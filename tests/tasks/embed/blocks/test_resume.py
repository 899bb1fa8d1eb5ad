"""Interrupted runs go on, and lose and repeat nothing."""

import json
import os
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from feature_files import export_files
from in_process import embed
from interruptions import interrupt_after
from PIL import Image
from typer.testing import CliRunner

from dino_cli.cli.app import app
from dino_cli.store.embeddings.blocks import Blocks


@pytest.mark.parametrize("suffix", ["npy", "npz", "safetensors", "parquet", "csv"])
def test_resume_gives_the_same_bytes_and_computes_the_rest_only(
    photos: Path,
    tmp_path: Path,
    fixed: list[object],
    seen: list[int],
    suffix: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if suffix == "parquet":
        pytest.importorskip("pyarrow")
    (photos / "blue/1.png").write_bytes(b"")
    embed(photos, "-o", tmp_path / f"whole.{suffix}", *fixed)
    assert sum(seen) == 11
    out = tmp_path / f"cut.{suffix}"
    with monkeypatch.context() as patch:
        interrupt_after(2, patch)
        text = embed(photos, "-o", out, *fixed, code=130).stderr
    assert "interrupted: 6 of 12 pictures are done and kept in" in text
    assert "go on with the same command and --resume" in text
    part = tmp_path / f"cut.{suffix}.part"
    assert sorted(p.name for p in part.glob("*.npz")) == ["00000000.npz", "00000001.npz"]
    assert (
        "holds an interrupted run; go on with --resume"
        in embed(photos, "-o", out, *fixed, code=1).stderr
    )
    seen.clear()
    result = json.loads(embed(photos, "-o", out, *fixed, "--resume", "--json").stdout)
    assert (result["count"], result["skipped"], result["embedded"]) == (11, 1, 6)
    assert sum(seen) == 6
    assert export_files(tmp_path, "cut") == export_files(tmp_path, "whole")
    assert not part.exists()
    seen.clear()
    again = json.loads(embed(photos, "-o", out, *fixed, "--resume", "--json").stdout)
    assert (again["count"], again["skipped"], again["embedded"], seen) == (11, 1, 0, [])


@pytest.mark.parametrize(
    ("suffix", "called"),
    [
        ("npy", ["photos", "{}/photos", "./photos/"]),
        ("csv", ["./photos/../photos", "photos", "../photos"]),
        ("parquet", ["photos", "../photos", "../photos/../photos"]),
    ],
)
def test_resume_takes_the_same_folder_by_another_name(
    photos: Path,
    tmp_path: Path,
    fixed: list[object],
    seen: list[int],
    suffix: str,
    called: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """From another folder too; the export is that of the last command alone."""
    if suffix == "parquet":
        pytest.importorskip("pyarrow")
    (photos / "blue/1.png").write_bytes(b"")
    (tmp_path / "elsewhere").mkdir()
    out = ["-o", tmp_path / f"cut.{suffix}", *fixed]
    for name, blocks, more in zip(called, (2, 1, 9), ([], ["--resume"], ["--resume"]), strict=True):
        monkeypatch.chdir(tmp_path / ("elsewhere" if name.startswith("..") else "."))
        seen.clear()
        with monkeypatch.context() as patch:
            interrupt_after(blocks, patch)
            embed(name.format(tmp_path), *out, *more, code=0 if blocks == 9 else 130)
    assert sum(seen) == 12 - 3 * 3
    embed(called[-1], "-o", tmp_path / f"whole.{suffix}", *fixed)
    assert export_files(tmp_path, "cut") == export_files(tmp_path, "whole")


def test_resume_refuses_what_has_changed(
    photos: Path,
    tmp_path: Path,
    fixed: list[object],
    make_weights: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out = ["-o", tmp_path / "f.npy"]
    with monkeypatch.context() as patch:
        interrupt_after(1, patch)
        embed(photos, *out, *fixed, code=130)
    again = [photos, *out, *fixed, "--resume"]
    other = make_weights(tmp_path / "other.safetensors", seed=3)
    kept = sorted(os.listdir(tmp_path / "f.npy.part"))
    for change, words in (
        (["--weights", other], "was made with"),
        (["--resize", 60], "was made with resize 64, not 60"),
        (["--features", "mean"], "was made with features cls, not mean"),
        (["--normalize"], "was made with normalize False, not True"),
    ):
        assert words in embed(*again, *change, code=1).stderr
    os.utime(photos / "red/3.png", ns=(1, 1))
    assert "other input files" in embed(*again, code=1).stderr
    assert sorted(os.listdir(tmp_path / "f.npy.part")) == kept
    result = json.loads(embed(photos, *out, *fixed, "--overwrite", "--json").stdout)
    assert result["count"] == 12
    assert not (tmp_path / "f.npy.part").exists()


def test_a_failure_leaves_nothing_but_an_earlier_run(
    photos: Path, tmp_path: Path, fixed: list[object], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = [photos, "-o", tmp_path / "f.npy", *fixed]
    content = (photos / "red/3.png").read_bytes()
    (photos / "red/3.png").write_bytes(b"")
    before = sorted(os.listdir(tmp_path))
    assert "cannot read" in embed(*out, "--strict", code=1).stderr
    assert sorted(os.listdir(tmp_path)) == before
    (photos / "red/3.png").write_bytes(content)

    embed(*out)
    ready = export_files(tmp_path, "f.")
    (photos / "red/3.png").write_bytes(b"")
    with monkeypatch.context() as patch:
        interrupt_after(1, patch)
        embed(*out, "--overwrite", code=130)
    assert "cannot read" in embed(*out, "--resume", "--strict", code=1).stderr
    assert (tmp_path / "f.npy.part/00000000.npz").exists()
    assert export_files(tmp_path, "f.") == ready  # the old output stands until the new one is whole
    assert json.loads(embed(*out, "--resume", "--json").stdout)["count"] == 11


def test_a_folder_of_somebody_else_is_left_alone(
    photos: Path, tmp_path: Path, fixed: list[object]
) -> None:
    (tmp_path / "f.npy.part").mkdir()
    (tmp_path / "f.npy.part/mine.txt").write_text("mine")
    for options in ([], ["--overwrite"], ["--resume"]):
        text = embed(photos, "-o", tmp_path / "f.npy", *fixed, *options, code=1).stderr
        assert "is no interrupted run of `dino embed`; remove it" in text
    assert (tmp_path / "f.npy.part/mine.txt").read_text() == "mine"


@pytest.mark.parametrize("moves", range(5))  # .csv, .json, .sources, .npy; and after them
def test_a_kill_between_the_last_moves(
    photos: Path, tmp_path: Path, fixed: list[object], moves: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """New files stand beside old ones then; the next call moves the rest."""
    embed(photos / "red", "-o", tmp_path / "f.npy", *fixed)
    embed(photos, "-o", tmp_path / "whole.npy", *fixed)
    real, done = Path.replace, []

    class Killed(BaseException):
        pass

    def replace(self: Path, target: Path) -> Path:
        if self.parent.name == "finished":
            if len(done) == moves:
                raise Killed
            done.append(target)
        return real(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", replace)
        patch.setattr(Blocks, "remove", lambda self: None)  # a killed process cleans nothing up
        options = ["-o", tmp_path / "f.npy", "--overwrite", *fixed]
        with suppress(Killed):
            CliRunner().invoke(app, ["embed", *map(str, [photos, *options])])
    assert len(done) == moves  # with all moved, it is killed before the folder is removed
    assert (tmp_path / "f.npy.part").is_dir()
    result = json.loads(
        embed(photos, "-o", tmp_path / "f.npy", *fixed, "--resume", "--json").stdout
    )
    assert (result["count"], result["embedded"]) == (12, 0)
    assert export_files(tmp_path, "f.") == export_files(tmp_path, "whole.")
    assert not (tmp_path / "f.npy.part").exists()


def test_a_move_that_fails_keeps_what_was_made(
    photos: Path, tmp_path: Path, fixed: list[object], monkeypatch: pytest.MonkeyPatch
) -> None:
    embed(photos / "red", "-o", tmp_path / "whole.npy", *fixed)
    embed(photos / "red/0.png", "-o", tmp_path / "f.npy", *fixed)
    real = Path.replace

    def replace(self: Path, target: Path) -> Path:
        if self.parent.name == "finished":
            raise OSError(1, "Operation not permitted")
        return real(self, target)

    out = [photos / "red", "-o", tmp_path / "f.npy", *fixed]
    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", replace)
        told = embed(*out, "--overwrite", code=1).stderr
    assert f"f.npy' in its place (Operation not permitted); it is whole in '{tmp_path}" in told
    assert json.loads(embed(*out, "--resume", "--json").stdout)["embedded"] == 0
    assert export_files(tmp_path, "f.") == export_files(tmp_path, "whole.")


@pytest.mark.parametrize("other", ["--append", "--resume"])
def test_going_on_and_starting_anew_exclude_each_other(
    photos: Path, tmp_path: Path, fixed: list[object], other: str
) -> None:
    embed(photos, "-o", tmp_path / "f.npy", *fixed)
    text = embed(photos, "-o", tmp_path / "f.npy", *fixed, other, "--overwrite", code=2).stderr
    assert f"{other} and --overwrite exclude each other" in text


def test_resume_of_what_is_finished_compares_contents(
    photos: Path, tmp_path: Path, fixed: list[object], seen: list[int]
) -> None:
    out = [photos, "-o", tmp_path / "f.npy", *fixed]
    embed(*out)
    before = export_files(tmp_path, "f.")
    os.utime(photos / "red/3.png", ns=(1, 1))  # the same content
    assert json.loads(embed(*out, "--resume", "--json").stdout)["embedded"] == 0
    shutil.copy(photos / "green/0.png", photos / "blue/1.png")
    text = embed(*out, "--resume", code=1).stderr
    assert f"is finished already, and '{photos}/blue/1.png' has changed since" in text
    assert "embed it again with --append" in text
    assert export_files(tmp_path, "f.") == before
    seen.clear()
    assert json.loads(embed(*out, "--append", "--json").stdout)["embedded"] == 1
    other = "is finished already, and of other files; add to it with --append"
    copy = Path(shutil.copy(photos / "red/0.png", photos / "red/copy.png"))
    assert other in embed(*out, "--resume", code=1).stderr
    copy.unlink()
    (photos / "red/3.png").unlink()
    assert other in embed(*out, "--resume", code=1).stderr


def test_a_finished_run_is_known_from_elsewhere(
    photos: Path,
    tmp_path: Path,
    fixed: list[object],
    seen: list[int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """However the same folder is spelled, and only while it is the same."""
    monkeypatch.chdir(tmp_path)
    embed("photos", "-o", "f.npy", *fixed)
    before, place = export_files(tmp_path, "f."), tmp_path / "elsewhere"
    place.mkdir()
    seen.clear()
    again = ["-o", tmp_path / "f.npy", *fixed, "--resume"]
    for folder, spelled in (
        (tmp_path, "./photos/"), (tmp_path, photos), (place, "../photos"), (place, photos),
    ):  # fmt: skip
        monkeypatch.chdir(folder)
        result = json.loads(embed(spelled, *again, "--json").stdout)
        assert (result["count"], result["embedded"]) == (12, 0)
    (photos / "red/3.png").rename(photos / "red/4.png")
    text = embed(photos, *again, code=1).stderr
    assert f"'photos/red/3.png' is '{photos}/red/4.png' now; change its row with --append" in text
    shutil.copytree(photos, place / "photos")
    (place / "photos/red/4.png").write_bytes((photos / "red/2.png").read_bytes())
    assert "of other files" in embed("photos", *again, code=1).stderr
    assert (export_files(tmp_path, "f."), seen) == (before, [])


@pytest.mark.parametrize("called", ["photos", "../photos"])
def test_resume_of_what_is_finished_knows_what_was_skipped(
    photos: Path,
    tmp_path: Path,
    fixed: list[object],
    monkeypatch: pytest.MonkeyPatch,
    called: str,
) -> None:
    """The same files are skipped again, from elsewhere too, and no other one is left out."""
    monkeypatch.chdir(tmp_path)
    (photos / "red/0.png").write_bytes(b"")
    (photos / "red/b\na\nd.png").write_bytes(b"")
    embed("photos", "-o", "f.npy", *fixed)
    before = export_files(tmp_path, "f.")
    if called != "photos":
        (tmp_path / "elsewhere").mkdir()
        monkeypatch.chdir(tmp_path / "elsewhere")
    out = [called, "-o", tmp_path / "f.npy", *fixed]
    again = json.loads(embed(*out, "--resume", "--json").stdout)
    assert (again["count"], again["skipped"], again["embedded"]) == (11, 2, 0)
    (photos / "red/b\na\nd.png").rename(photos / "red/bad.png")
    shutil.copy(photos / "red/1.png", photos / "red/new.png")
    with Image.open(photos / "red/new.png") as image:
        image.rotate(180).save(photos / "red/new.png")
    assert "is finished already, and of other files" in embed(*out, "--resume", code=1).stderr
    (photos / "red/bad.png").unlink()  # as many files as there were
    text = embed(*out, "--resume", code=1).stderr
    assert "is finished already, and of other files; add to it with --append" in text
    (photos / "red/new.png").rename(photos / "red/0.png")
    (photos / "red/b\na\nd.png").write_bytes(b"")
    text = embed(*out, "--resume", code=1).stderr
    assert f"and '{called}/red/0.png', which was skipped, can be read now; embed it with" in text
    assert export_files(tmp_path, "f.") == before
    grown = json.loads(embed(*out, "--append", "--json").stdout)
    assert (grown["count"], grown["skipped"]) == (12, 1)
    (photos / "red/b\na\nd.png").unlink()
    assert "of other files; add to it" in embed(*out, "--resume", code=1).stderr
    grown = json.loads(embed(*out, "--append", "--json").stdout)
    assert (grown["count"], grown["skipped"], grown["embedded"]) == (12, 0, 0)
    assert not (tmp_path / "f.skipped.csv").exists()
    assert json.loads(embed(*out, "--resume", "--json").stdout)["embedded"] == 0
