"""Shards behind URLs, fetched once for all processes."""

import fcntl
import io
import os
import signal
import socket
import tarfile
import time
from pathlib import Path

import filelock
import pytest
from heard import Heard
from in_process import dino
from small_vit import write_small_vit

from dino_cli.data.listing import remote_shards
from dino_cli.data.listing.images import find_images
from dino_cli.errors import TaskError

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


@pytest.mark.parametrize("page", [b"<html>not here</html>", b"x" * 5000])
def test_what_is_no_tar_is_not_kept(tmp_path, monkeypatch, page):
    monkeypatch.setenv("DINO_CACHE", str(tmp_path))
    for content in (page, page, shard()):
        monkeypatch.setattr(gopen, "gopen", lambda *_, content=content: io.BytesIO(content))
        if content is page:
            with pytest.raises(TaskError, match="gives is no tar"):
                find_images([URL])
        else:  # what the server gave before is forgotten
            assert [file.path.name for file in find_images([URL])] == ["a.png"]


@pytest.mark.parametrize(
    "error",
    [
        ConnectionError("refused"),
        RuntimeError("of a library"),  # httpx's are no OSErrors
        FileNotFoundError("no such repository"),
        ValueError("embedded null byte"),
    ],
)
def test_a_network_that_does_not_answer_is_told(tmp_path, monkeypatch, error):
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setenv("DINO_CACHE", str(tmp_path))
    monkeypatch.setattr(gopen, "gopen", fail)
    with pytest.raises(TaskError, match="does not give it, or the connection broke"):
        find_images(["hf://datasets/a/b/c.tar"])


def test_shards_of_one_name_at_two_addresses_are_two(tmp_path, monkeypatch):
    monkeypatch.setenv("DINO_CACHE", str(tmp_path))
    given = {f"http://example.org/{name}/pictures.tar": f"{name}.png" for name in "ab"}
    monkeypatch.setattr(gopen, "gopen", lambda url, _: io.BytesIO(shard(given[url])))
    for _ in range(2):  # fetched, then found
        assert [file.path.name for file in find_images(list(given))] == ["a.png", "b.png"]
        monkeypatch.setattr(gopen, "gopen", lambda *_: pytest.fail("fetched again"))


def test_a_shard_is_on_the_disk_before_it_takes_its_name(tmp_path, monkeypatch):
    monkeypatch.setenv("DINO_CACHE", str(tmp_path))
    monkeypatch.setattr(gopen, "gopen", lambda *_: io.BytesIO(shard()))
    done, fsync, replace = [], os.fsync, os.replace

    def synced(descriptor):
        done.append(os.fstat(descriptor).st_ino)
        fsync(descriptor)

    def renamed(part, path):
        if str(path).endswith(".tar"):  # else an index
            done.append(os.stat(part).st_ino)
        replace(part, path)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "replace", renamed)
    (file,) = find_images([URL])
    assert done == [file.path.parent.stat().st_ino] * 2


def test_what_another_process_fetched_meanwhile_is_used(tmp_path, monkeypatch):
    """It has come while this one waited for the lock."""
    monkeypatch.setenv("DINO_CACHE", str(tmp_path))
    monkeypatch.setattr(gopen, "gopen", lambda *_: pytest.fail("fetched again"))

    class Waiting(filelock.FileLock):
        def acquire(self, *words, **options):
            Path(self.lock_file).with_name("pictures.tar").write_bytes(shard("b.png"))
            return super().acquire(*words, **options)

    monkeypatch.setattr(filelock, "FileLock", Waiting)
    assert [file.path.name for file in find_images([URL])] == ["b.png"]


def test_a_program_that_is_not_installed_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("DINO_CACHE", str(tmp_path))
    monkeypatch.setattr(gopen, "gopen", lambda *_: Path("gsutil").read_bytes())
    with pytest.raises(TaskError, match="gsutil is missing; install it"):
        find_images(["gs://bucket/a.tar"])


def test_a_cache_that_takes_nothing_is_told_apart_from_the_address(tmp_path, monkeypatch):
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setattr(gopen, "gopen", lambda *_: io.BytesIO(shard()))
    for place in (tmp_path / "file", Path("/proc/nowhere")):
        monkeypatch.setenv("DINO_CACHE", str(place))
        with pytest.raises(TaskError, match=r"cannot keep .* set DINO_CACHE to another folder"):
            find_images([URL])


@pytest.fixture
def silent(tmp_path, monkeypatch):
    """The address of a server that takes connections and never answers; short patience."""
    monkeypatch.setenv("DINO_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(remote_shards, "TOLD_AFTER", 0.2)
    monkeypatch.setattr(remote_shards, "GIVEN_UP_AFTER", 0.6)
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server, f"http://127.0.0.1:{server.getsockname()[1]}/a.tar"


def embed(url, folder):
    write_small_vit(folder / "w.safetensors")
    words = ("--weights", folder / "w.safetensors", "-o", folder / "f.npy", "--device", "cpu")
    started = time.monotonic()
    result = dino("embed", url, *words, code=1)
    assert result.stdout == ""
    assert {path.name for path in folder.iterdir()} == {"cache", "w.safetensors"}
    return result.stderr, time.monotonic() - started


def test_a_server_that_never_answers_is_told_and_given_up(tmp_path, silent, monkeypatch):
    _, url = silent
    started = []
    pipe = gopen.Popen
    monkeypatch.setattr(gopen, "Popen", lambda *a, **k: started.append(pipe(*a, **k)) or started[0])
    said, seconds = embed(url, tmp_path)
    assert said.count(f"nothing has come from {url!r} for 0.2 seconds; trying on, for 0.6") == 1
    assert said.splitlines()[-1] == (
        f"dino: error: cannot fetch {url!r}: nothing has come for 0.6 seconds; check the address"
        " and the network, or fetch it yourself"
    )
    assert 0.6 < seconds < 10
    assert started[0].poll() is not None  # no curl goes on asking
    assert not list((tmp_path / "cache").glob("shards/*/*.part"))


def test_a_server_that_refuses_is_told_at_once(tmp_path, silent):
    server, url = silent
    server.close()
    said, _ = embed(url, tmp_path)
    assert "nothing has come" not in said
    assert "the server does not give it, or the connection broke; check the address" in said


@pytest.mark.parametrize(
    ("pieces", "pause", "told_after", "given_up_after", "told"),
    [(3, 0.3, 0.1, 60.0, 1), pytest.param(40, 0.05, 1.5, 1.6, 0, marks=pytest.mark.slow)],
)
def test_what_comes_slowly_comes_whole(
    silent, monkeypatch, pieces, pause, told_after, given_up_after, told
):
    """Also where it takes longer than the patience in all, never so long without a piece."""
    _, url = silent
    content = shard()
    monkeypatch.setattr(remote_shards, "PIECE", len(content) // pieces)
    monkeypatch.setattr(remote_shards, "TOLD_AFTER", told_after)
    monkeypatch.setattr(remote_shards, "GIVEN_UP_AFTER", given_up_after)

    class Slow(io.BytesIO):
        def read(self, size=-1):
            time.sleep(pause)
            return super().read(size)

    monkeypatch.setattr(gopen, "gopen", lambda *_: Slow(content))
    heard = Heard()
    (file,) = find_images([url], reporter=heard)
    assert Path(str(file.path).removesuffix("/a.png")).read_bytes() == content
    assert len(heard.remarks) == told


def shard(name: str = "a.png") -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as tar:
        tar.addfile(tarfile.TarInfo(name))
    return file.getvalue()
