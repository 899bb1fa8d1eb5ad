"""Listings of folders that are kept: the same as fresh ones, whatever changes in between."""

import os
import time

import pytest

from dino_cli.data.listing import folder_index
from dino_cli.data.listing.images import find_images
from dino_cli.data.listing.index_cache import cache_folder


@pytest.fixture
def tree(tmp_path, monkeypatch):
    """Thirty empty pictures in three nested folders; kept although they are few, at once."""
    monkeypatch.setattr(folder_index, "FEW", 1)
    monkeypatch.setattr(folder_index, "SETTLED_SECONDS", 0.0)
    monkeypatch.setenv("DINO_CACHE", str(tmp_path / "cache"))
    for folder in ("a", "b", "b/deep"):
        (tmp_path / "data" / folder).mkdir(parents=True)
        for i in range(10):
            (tmp_path / "data" / folder / f"{i}.jpg").touch()
    time.sleep(0.02)
    return tmp_path / "data"


def listed(folder):
    return [str(file.relative) for file in find_images([str(folder)])]


def fresh(folder):
    found = [
        os.path.relpath(os.path.join(root, name), folder)
        for root, _, names in os.walk(folder)
        for name in names
        if name.endswith(".jpg")
    ]
    return sorted(found, key=lambda path: path.split("/"))


def scans(monkeypatch):
    seen, real = [], os.scandir

    def scandir(path):
        seen.append(str(path))
        return real(path)

    monkeypatch.setattr(folder_index.os, "scandir", scandir)
    return seen


def test_a_second_listing_reads_no_folder(tree, monkeypatch):
    first = listed(tree)
    assert first == fresh(tree)
    seen = scans(monkeypatch)
    assert listed(tree) == first
    assert seen == []


@pytest.mark.parametrize("change", ["add", "remove", "folder", "rename"])
def test_changes_are_seen_and_only_changed_folders_read(tree, monkeypatch, change):
    listed(tree)
    if change == "add":
        (tree / "b" / "new.jpg").touch()
    elif change == "remove":
        (tree / "b" / "3.jpg").unlink()
    elif change == "folder":
        (tree / "b" / "more").mkdir()
        (tree / "b" / "more" / "x.jpg").touch()
    else:
        (tree / "b" / "deep").rename(tree / "b" / "other")
    expected = fresh(tree)
    seen = scans(monkeypatch)
    assert listed(tree) == expected
    assert str(tree / "a") not in seen
    assert seen != []


def test_a_damaged_cache_is_made_anew(tree):
    first = listed(tree)
    files = [path for path in cache_folder().rglob("*") if path.is_file()]
    assert files
    for path in files:
        path.write_bytes(b"x" * 100)
    assert listed(tree) == first


def test_without_a_cache(tree, monkeypatch):
    monkeypatch.setenv("DINO_CACHE", "off")
    assert listed(tree) == fresh(tree)
