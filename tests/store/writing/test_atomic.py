"""Files appear whole or not at all, and are on the disk by then."""

import os
import tempfile
from pathlib import Path

import pytest

from dino_cli.store.writing.atomic import atomic_write, sweep_beside


def test_a_file_is_on_the_disk_before_it_takes_its_name(tmp_path, monkeypatch):
    """And the name after that: a power cut between the two would else leave an empty file."""
    path, done = tmp_path / "a.txt", []
    fsync, replace = os.fsync, Path.replace

    def synced(descriptor):
        done.append(os.fstat(descriptor).st_ino)
        fsync(descriptor)

    def renamed(temporary, target):
        done.append(target)
        return replace(temporary, target)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(Path, "replace", renamed)
    with atomic_write(path) as temporary:
        temporary.write_text("whole")
    assert done == [path.stat().st_ino, path, tmp_path.stat().st_ino]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_after_an_error_all_is_as_it_was(tmp_path, error):
    path = tmp_path / "a.txt"
    path.write_text("old")

    def half():
        with atomic_write(path) as temporary:
            temporary.write_text("half")
            raise error

    with pytest.raises(error):
        half()
    assert os.listdir(tmp_path) == ["a.txt"]
    assert path.read_text() == "old"


def test_a_link_is_not_what_a_killed_process_left(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / ".a.txt.abcdefgh.part").symlink_to(tmp_path / "mine")
    with atomic_write(tmp_path / "a.txt") as temporary:
        temporary.write_text("new")
    assert sorted(os.listdir(tmp_path)) == [".a.txt.abcdefgh.part", "a.txt", "mine"]


@pytest.mark.parametrize("name", ["a(1.txt", "a+b.txt", "[z-a].txt"])
def test_what_a_killed_process_left_is_known_under_any_name(tmp_path, name):
    left, others = tmp_path / f".{name}.abcdefgh.part", tmp_path / ".aab.txt.abcdefgh.part"
    for path in (left, others):
        path.write_text("half")
    with atomic_write(tmp_path / name) as temporary:
        temporary.write_text("new")
    assert sorted(os.listdir(tmp_path)) == sorted([others.name, name])


def test_a_file_that_was_swept_before_it_was_locked_is_made_anew(tmp_path, monkeypatch):
    path, made, real = tmp_path / "a.txt", [], tempfile.mkstemp

    def swept(**options):
        held, name = real(**options)
        made.append(name)
        if len(made) == 1:
            os.unlink(name)
        return held, name

    monkeypatch.setattr(tempfile, "mkstemp", swept)
    with atomic_write(path) as temporary:
        temporary.write_text("new")
        sweep_beside(path)  # as another process does
        assert temporary.read_text() == "new"
    assert os.listdir(tmp_path) == ["a.txt"]
    assert len(made) == 2
