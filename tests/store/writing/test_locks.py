"""One command at a time for one output; temporary files of the dead are swept."""

import errno
import fcntl
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dino_cli.errors import TaskError
from dino_cli.store.writing.atomic import atomic_write
from dino_cli.store.writing.folders import ResultFolders
from dino_cli.store.writing.locks import lock_output
from dino_cli.store.writing.staging import stage_results

WAIT = "    print('ready', flush=True)\n    time.sleep(60)\n"


def elsewhere(code: str) -> subprocess.Popen:
    """Another process that has got as far as `ready`."""
    lines = (
        "import time\nfrom pathlib import Path\n"
        "from dino_cli.store.writing.atomic import atomic_write\n"
        "from dino_cli.store.writing.locks import lock_output\n"
        "from dino_cli.store.writing.staging import stage_results\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", lines + code], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def test_an_output_is_held_until_its_process_ends(tmp_path):
    output = tmp_path / "f.npy"
    process = elsewhere(f"with lock_output(Path({str(output)!r})):\n{WAIT}")
    with pytest.raises(TaskError, match=r"another dino is writing .*f\.npy"), lock_output(output):
        pass
    assert [path.name for path in tmp_path.iterdir()] == [".f.npy.lock"]
    process.send_signal(signal.SIGKILL)
    process.communicate()
    with lock_output(output):
        pass
    assert list(tmp_path.iterdir()) == []


def test_where_no_lock_can_be_made_the_command_goes_on(tmp_path):
    with lock_output(tmp_path / "no" / "f.npy"):
        pass


def test_on_a_file_system_without_locks_the_command_goes_on_and_leaves_nothing(
    tmp_path, monkeypatch
):
    def refuse(*_):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "lockf", refuse)
    with lock_output(tmp_path / "f.npy"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_lock_that_its_holder_is_just_removing_is_not_taken_for_one(tmp_path, monkeypatch):
    place, lockf, before = tmp_path / ".f.npy.lock", fcntl.lockf, []

    def removed(descriptor, how):
        if not before:
            before.append(place.unlink())
        lockf(descriptor, how)

    monkeypatch.setattr(fcntl, "lockf", removed)
    with lock_output(tmp_path / "f.npy"):
        assert place.exists()  # where the next process looks
    assert list(tmp_path.iterdir()) == []


def test_a_lock_follows_no_link(tmp_path):
    (tmp_path / ".f.npy.lock").symlink_to(tmp_path / "elsewhere")
    with lock_output(tmp_path / "f.npy"):
        assert os.listdir(tmp_path) == [".f.npy.lock"]


def test_files_of_a_killed_process_are_swept_and_those_of_a_living_one_stay(tmp_path):
    path = tmp_path / "a.txt"
    process = elsewhere(
        f"with atomic_write(Path({str(path)!r})) as part:\n    part.write_text('half')\n{WAIT}"
    )
    with atomic_write(path) as part:
        part.write_text("one")
    assert len(list(tmp_path.iterdir())) == 2
    process.send_signal(signal.SIGKILL)
    process.communicate()
    (tmp_path / ".a.txt.mine.part").write_text("not ours")
    with atomic_write(path) as part:
        part.write_text("two")
    assert sorted(p.name for p in tmp_path.iterdir()) == [".a.txt.mine.part", "a.txt"]
    assert path.read_text() == "two"


def test_what_a_killed_process_moved_away_comes_back(tmp_path):
    """Killed between moving the old folder away and the new one in."""
    output = tmp_path / "out"
    (output / "folder").mkdir(parents=True)
    (output / "folder" / "old").write_text("old")
    code = (
        f"with stage_results(Path({str(output)!r}), ['folder']) as stage:\n"
        f"    Path({str(output / 'folder')!r}).rename(stage / 'old-folder')\n{WAIT}"
    )
    process = elsewhere(code)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    with stage_results(output, ["page"]) as stage:
        (stage / "page").write_text("new")
    assert (output / "folder" / "old").read_text() == "old"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out"]


def test_a_result_folder_comes_back_when_the_new_one_cannot_take_its_name(tmp_path, monkeypatch):
    import re

    results = ResultFolders(tmp_path / "out", re.compile("x"))
    results.write(Path("cat"), {"x": b"old"})
    rename = Path.rename

    def refuse(self, target):
        if self.name.endswith(".partial"):
            raise OSError(5, "refused")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", refuse)
    with pytest.raises(OSError, match="refused"):
        results.write(Path("cat"), {"x": b"new"})
    assert (tmp_path / "out" / "cat" / "x").read_bytes() == b"old"
    assert os.listdir(tmp_path / "out") == ["cat"]


@pytest.mark.parametrize("length", [80, 250])
def test_outputs_whose_long_names_begin_alike_are_two(tmp_path, length):
    one, other = (tmp_path / f"{'x' * (length - 1)}{end}" for end in "ab")
    process = elsewhere(f"with lock_output(Path({str(one)!r})):\n{WAIT}")
    with lock_output(other):
        pass
    with pytest.raises(TaskError, match="another dino is writing"), lock_output(one):
        pass
    process.send_signal(signal.SIGKILL)
    process.communicate()


@pytest.mark.parametrize("name", ["x" * 250, "é" * 125, "🦕" * 62])
def test_outputs_of_the_longest_names_are_held(tmp_path, name):
    with lock_output(tmp_path / name):
        (held,) = tmp_path.iterdir()
        assert held.name.endswith(".lock")
    assert list(tmp_path.iterdir()) == []


def test_the_longest_names_have_room_for_the_temporary_one(tmp_path):
    for name in ("x" * 255, "é" * 127, "🦕" * 63):
        with atomic_write(tmp_path / name) as part:
            part.write_text("whole")
        assert (tmp_path / name).read_text() == "whole"
        with lock_output(tmp_path / name):
            time.sleep(0)
