"""Short turns of the scripts beside this file; the whole is told in `.github/SECURITY.md`."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.alone]  # a reader has twenty seconds for a file

HERE = Path(__file__).parent


def counts(script: str, *words: object) -> dict[str, dict]:
    done = subprocess.run(
        [sys.executable, HERE / script, *map(str, words)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True, text=True, timeout=1500, errors="replace",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    print(script, {name: (one.get("tries") or one["commands"]) for name, one in found.items()})  # noqa: T201
    return found


def test_damaged_files_end_in_one_sentence():
    found = counts("readers.py", "--tries", 6, "pth", "safetensors", "feats_npy", "embed_resume")
    assert all(one["tries"] == 6 for one in found.values())
    assert {name: one["kinds"] for name, one in found.items() if one["faults"]} == {}


def test_every_reader_with_damaged_files():
    found = counts("readers.py", "--tries", 30, "--seed", 7)
    assert len(found) > 15
    assert {name: one["kinds"] for name, one in found.items() if one["faults"]} == {}


def test_texts_that_are_mutated():
    found = counts("fuzz.py", "--minutes", 1, "--seed", 7)
    assert {name: one["kinds"] for name, one in found.items() if one["faults"]} == {}
    assert all(one["tries"] > 20 and one["exit"] == 0 for one in found.values())


def test_after_a_kill_all_goes_on_as_if_nothing_had_been():
    found = counts("kills.py", "--tries", 8)
    assert {name: one["faults"] for name, one in found.items() if one["faults"]} == {}
    assert all(one["killed"] >= 4 for one in found.values())


def test_a_disk_that_refuses_leaves_the_old_files_whole():
    found = counts("disks.py", "--tries", 8)
    assert {name: one["faults"] for name, one in found.items() if one["faults"]} == {}
    assert all(one["refused"] >= 3 for one in found.values())


def test_ten_at_once_on_one_output():
    found = counts("crowds.py", "--rounds", 2, "embed", "attention", "export_timm", "train")
    assert {name: one["faults"] for name, one in found.items() if one["faults"]} == {}
    assert all(one["done"] for one in found.values())


def test_options_that_nobody_meant():
    found = counts("options.py", "--tries", 30, "--seed", 7)
    assert {name: one["kinds"] for name, one in found.items() if one["faults"]} == {}
