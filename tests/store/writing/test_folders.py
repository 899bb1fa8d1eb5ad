import re
from pathlib import PurePath

import pytest

from dino_cli.errors import TaskError
from dino_cli.store.writing.folders import ResultFolders, folder_names, hidden_folder

OWN = re.compile(r"mask_\d\.png")


def _names(*inputs):
    return [str(name) for name in folder_names([PurePath(i) for i in inputs], ["skipped.csv"])]


@pytest.mark.parametrize(
    ("inputs", "expected"),
    [
        (["cat.jpg", "dogs/rex.png"], ["cat", "dogs/rex"]),
        (["a/cat.jpg", "b/cat.jpg"], ["a/cat", "b/cat"]),
        (["cat.jpg", "cat.png"], ["cat.jpg", "cat.png"]),
        (["cat.jpg", "cat/1.jpg"], ["cat.jpg", "cat/1"]),
        (["cat.jpg", "cat.jpg", "cat.jpg"], ["cat.jpg", "cat.jpg-2", "cat.jpg-3"]),
        (["cat.jpg", "cat.jpg", "cat.jpg-2.png"], ["cat.jpg", "cat.jpg-3", "cat.jpg-2"]),
        (["cat", "dog"], ["cat", "dog"]),
        (
            ["archive.tar.png", "..jpg", "skipped.csv.png"],
            ["archive.tar", "..jpg", "skipped.csv-2"],
        ),
        (["/etc/cat.jpg", "../../dog.jpg"], ["etc/cat", "dog"]),
    ],
)
def test_names(inputs, expected):
    assert _names(*inputs) == expected


def test_names_are_distinct_and_never_nested_whatever_the_inputs():
    parts = ["a", "a.jpg", "a.png", "a-2", "a.jpg-2", "b.jpg"]
    inputs = [*parts, *parts, *(f"{x}/{y}" for x in parts for y in parts)]
    names = [PurePath(name) for name in _names(*inputs)]
    assert len(set(names)) == len(inputs)
    assert not {parent for name in names for parent in name.parents} & set(names)


def _results(tmp_path, name="out"):
    return ResultFolders(tmp_path / name, OWN)


def test_write_makes_whole_folders_and_leaves_nothing_else(tmp_path):
    results = _results(tmp_path)
    folder = results.write(PurePath("a/cat"), {"mask_0.png": b"x", "mask_1.png": b"y"})
    assert folder == tmp_path / "out" / "a" / "cat"
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == {
        "mask_0.png": b"x",
        "mask_1.png": b"y",
    }
    assert [p.name for p in folder.parent.iterdir()] == ["cat"]


def test_an_interrupted_write_leaves_no_folder(tmp_path, monkeypatch):
    def fail(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("pathlib.Path.write_bytes", fail)
    with pytest.raises(KeyboardInterrupt):
        _results(tmp_path).write(PurePath("cat"), {"mask_0.png": b"x"})
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_run_left_does_not_disturb(tmp_path):
    results = _results(tmp_path)
    results.write(PurePath("cat"), {"mask_0.png": b"old"})
    for hidden in ("partial", "replaced"):
        left = next(iter((tmp_path / "out").iterdir())).with_name(f".x.{hidden}")
        left.mkdir()
    for state in ("partial", "replaced"):
        stale = hidden_folder(tmp_path / "out" / "cat", state)
        stale.mkdir()
        (stale / "half").write_bytes(b"")
    results.write(PurePath("cat"), {"mask_1.png": b"new"})
    assert [p.name for p in (tmp_path / "out" / "cat").iterdir()] == ["mask_1.png"]
    assert not hidden_folder(tmp_path / "out" / "cat", "partial").exists()
    assert not hidden_folder(tmp_path / "out" / "cat", "replaced").exists()


def test_what_a_killed_run_had_moved_away_outlives_a_write_that_fails(tmp_path, monkeypatch):
    def fail(*_):
        raise OSError(28, "No space left on device")

    results, folder = _results(tmp_path), tmp_path / "out" / "cat"
    results.write(PurePath("cat"), {"mask_0.png": b"old"})
    folder.rename(hidden_folder(folder, "replaced"))
    monkeypatch.setattr("pathlib.Path.write_bytes", fail)
    with pytest.raises(OSError, match="No space left"):
        results.write(PurePath("cat"), {"mask_0.png": b"new"})
    assert (folder / "mask_0.png").read_bytes() == b"old"


def test_check_refuses_existing_results_unless_overwriting(tmp_path):
    _results(tmp_path).write(PurePath("cat"), {"mask_0.png": b"x"})
    again = _results(tmp_path)
    with pytest.raises(TaskError, match=r"cat' already exists; use --overwrite"):
        again.check([PurePath("dog"), PurePath("cat")], overwrite=False)
    again.check([PurePath("dog"), PurePath("cat")], overwrite=True)
    again.check([PurePath("dog")], overwrite=False)


@pytest.mark.parametrize("strange", ["holiday.jpg", "mask_0.png/"])
def test_overwriting_never_removes_what_is_not_ours(tmp_path, strange):
    folder = tmp_path / "out" / "cat"
    folder.mkdir(parents=True)
    (folder / strange).mkdir() if strange.endswith("/") else (folder / strange).write_text("")
    with pytest.raises(TaskError, match="no result of this command"):
        _results(tmp_path).check([PurePath("cat")], overwrite=True)


@pytest.mark.parametrize(
    ("prepare", "output", "message"),
    [
        (lambda p: None, "no/out", "does not exist"),
        (lambda p: (p / "out").write_text(""), "out", "is a file"),
        (lambda p: ((p / "out").mkdir(), (p / "out" / "a").write_text("")), "out", "is a file"),
        (lambda p: ((p / "out/a").mkdir(parents=True), (p / "out/a/cat").write_text("")),
         "out", "not a folder"),
        (lambda p: ((p / "out/a").mkdir(parents=True), (p / "out/a/cat").symlink_to(p)),
         "out", "not a folder"),
    ],
)  # fmt: skip
def test_check_names_what_is_in_the_way(tmp_path, prepare, output, message):
    prepare(tmp_path)
    with pytest.raises(TaskError, match=message):
        _results(tmp_path, output).check([PurePath("a/cat")], overwrite=True)


def test_discard_takes_back_new_folders_only(tmp_path):
    _results(tmp_path).write(PurePath("old"), {"mask_0.png": b"x"})
    results = _results(tmp_path)
    results.write(PurePath("old"), {"mask_0.png": b"y"})
    results.write(PurePath("a/b/new"), {"mask_0.png": b"y"})
    results.discard()
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["old"]


def test_discard_removes_an_output_folder_that_is_new(tmp_path):
    results = _results(tmp_path)
    results.write(PurePath("a/new"), {"mask_0.png": b"y"})
    results.discard()
    assert list(tmp_path.iterdir()) == []
