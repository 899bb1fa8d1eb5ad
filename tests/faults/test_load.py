"""Very many files at once."""

import os

import pytest
from traced_memory import traced_memory

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
    find_images([str(tmp_path / "photos" / "class-000" / f"{0:012}.jpg")])  # imports what it needs
    for _ in range(2):  # listed, and as the cache has it
        with traced_memory() as traced:
            files = find_images([str(tmp_path / "photos")])
        assert len(files) == COUNT
        assert traced.held < 60 * COUNT
        assert traced.most < 200 * COUNT
        assert files[COUNT - 1].label == "class-099"
        del files
