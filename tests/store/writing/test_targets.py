"""What stands in the way of an output, and what an output may not replace."""

import os

import pytest

from dino_cli.errors import TaskError
from dino_cli.store.writing.targets import keep_inputs


def test_an_output_does_not_replace_what_is_read(tmp_path):
    """By whatever name: through a link, a folder's link, or two names of one file."""
    (tmp_path / "real").mkdir()
    file = tmp_path / "real" / "a.npy"
    file.write_bytes(b"x")
    (tmp_path / "folder").symlink_to("real")
    (tmp_path / "link.npy").symlink_to(file)
    os.link(file, tmp_path / "other.npy")
    (tmp_path / "free.npy").write_bytes(b"x")
    for name in ("real/a.npy", "folder/a.npy", "link.npy", "other.npy"):
        with pytest.raises(TaskError, match=r"a\.npy' is read, and would be replaced"):
            keep_inputs([tmp_path / "x.csv", tmp_path / name], [tmp_path / "gone.npy", file])
    keep_inputs([tmp_path / "free.npy", tmp_path / "new.npy"], [file])
