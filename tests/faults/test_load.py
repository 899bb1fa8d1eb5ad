"""Very many files at once."""

import os
import tracemalloc

import pytest

from dino_cli.data.listing.images import find_images

COUNT = 100_000


@pytest.mark.slow
def test_a_hundred_thousand_files_are_listed_in_little_memory(tmp_path, monkeypatch):
    monkeypatch.setenv("DINO_CACHE", str(tmp_path / "cache"))
    for f in range(100):
        folder = tmp_path / "photos" / f"class-{f:03}"
        folder.mkdir(parents=True)
        for i in range(COUNT // 100):
            os.close(os.open(folder / f"{i:012}.jpg", os.O_CREAT | os.O_WRONLY))
    for _ in range(2):  # listed, and as the cache has it
        tracemalloc.start()
        try:
            files = find_images([str(tmp_path / "photos")])
            held, most = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert len(files) == COUNT
        assert held < 60 * COUNT
        assert most < 200 * COUNT
        assert files[COUNT - 1].label == "class-099"
        del files
