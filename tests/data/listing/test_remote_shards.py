"""Shards behind URLs, fetched once for all processes."""

import fcntl
import io
import signal

import pytest

from dino_cli.data.listing.images import find_images

gopen = pytest.importorskip("webdataset.gopen")

URL = "http://example.org/pictures.tar"


def test_who_is_interrupted_while_waiting_leaves_the_download_of_another(tmp_path, monkeypatch):
    """Another process holds the lock and has half of the shard: its file stays."""
    monkeypatch.setenv("DINO_CACHE", str(tmp_path))
    monkeypatch.setattr(gopen, "gopen", lambda *_: io.BytesIO(b""))
    with pytest.raises(Exception, match="does not give it"):
        find_images([URL])
    (folder,) = (tmp_path / "shards").iterdir()
    assert not list(folder.glob("*.part"))  # its own is gone
    half = folder / "pictures.tar.part"
    before = signal.signal(signal.SIGALRM, signal.default_int_handler)
    try:
        with open(folder / ".lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # as filelock does it
            half.write_bytes(b"half")
            signal.setitimer(signal.ITIMER_REAL, 0.3)
            with pytest.raises(KeyboardInterrupt):
                find_images([URL])
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert half.read_bytes() == b"half"
