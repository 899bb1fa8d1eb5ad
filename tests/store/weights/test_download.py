"""Original files by their address, from a server on this machine."""

import hashlib
import os
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from heard import Heard

from dino_cli.errors import TaskError
from dino_cli.progress import Reporter
from dino_cli.store.weights import download as downloads
from dino_cli.store.weights.digests import check, record_path
from dino_cli.store.weights.download import Unanswered, cached_download, download, within


def test_a_call_that_hangs_is_given_up() -> None:
    never = threading.Event()
    with pytest.raises(Unanswered):
        within(0.05, never.wait)
    never.set()
    assert within(5, lambda: 3) == 3
    with pytest.raises(ZeroDivisionError):
        within(5, lambda: 1 // 0)


@pytest.fixture
def torch_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    return tmp_path / "torch"


def test_original_files_go_where_torch_hub_keeps_them(hub: Any, torch_home: Path) -> None:
    url, content = f"{hub.address}/dino/a_pretrain/a.pth", os.urandom(3 << 20)
    hub.files["dino/a_pretrain/a.pth"] = content
    assert cached_download(url) is None
    notes = Heard()
    path = download(url, None, notes)
    assert path == torch_home / "hub" / "checkpoints" / "a.pth"
    assert path == Path(torch.hub.get_dir()) / "checkpoints" / "a.pth"
    assert path.read_bytes() == content
    assert cached_download(url) == path
    assert notes.done >= 3
    assert "(3 MB)" in notes.remarks[0]


def test_the_place_is_torch_hubs_whatever_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for changed in ({}, {"XDG_CACHE_HOME": "xdg"}, {"XDG_CACHE_HOME": "xdg", "TORCH_HOME": "t"}):
        for name in ("HOME", "XDG_CACHE_HOME", "TORCH_HOME"):
            monkeypatch.delenv(name, raising=False)
        for name, value in {"HOME": "home", **changed}.items():
            monkeypatch.setenv(name, str(tmp_path / value))
        place = Path(torch.hub.get_dir()) / "checkpoints" / "a.pth"
        place.parent.mkdir(parents=True)
        place.touch()
        assert cached_download("https://example.org/x/a.pth") == place


def test_original_files_that_do_not_arrive_leave_nothing(hub: Any, torch_home: Path) -> None:
    url = f"{hub.address}/a.pth"
    with pytest.raises(Unanswered, match="answered 404"):
        download(url, None, Reporter())
    hub.files["a.pth"] = bytes(5000)
    with pytest.raises(TaskError, match="SHA-256"):
        download(url, "0" * 64, Reporter())
    hub.server.shutdown()
    hub.server.server_close()
    with pytest.raises(Unanswered, match="does not answer"):
        download(url, None, Reporter())
    assert files(torch_home) == []
    assert downloads.ANSWER_SECONDS < downloads.GIVE_UP_SECONDS < 5


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


def test_a_broken_download_goes_on_where_it_stopped(hub: Any, torch_home: Path) -> None:
    content = os.urandom(1 << 20)
    url = f"{hub.address}/a.pth"
    hub.files["a.pth"], hub.cut, hub.ranges = content, True, True
    # Each connection brings half of what is left: five leave a thirty-second.
    with pytest.raises(
        TaskError, match=r"broke off after \d+ of 1048576 bytes.*goes on from there"
    ):
        download(url, None, Reporter())
    assert files(torch_home) == [".a.pth.lock", ".a.pth.part", ".a.pth.version"]
    assert cached_download(url) is None
    have = len(content) - len(content) // 32
    hub.cut, notes = False, Heard()
    assert download(url, None, notes).read_bytes() == content
    assert hub.starts[-1] == have
    assert f"going on at {have / 1e6:.0f} MB" in notes.remarks[0]
    assert files(torch_home) == ["a.pth", "a.pth.sha256"]
    digest = hashlib.sha256(content).hexdigest()
    recorded = (torch_home / "hub" / "checkpoints" / "a.pth.sha256").read_text()
    assert recorded == f"{digest}  a.pth\n"


@pytest.mark.parametrize("ranges", [True, False])
@pytest.mark.parametrize("size", [3000, 9000])
def test_a_part_of_another_file_is_not_gone_on_with(
    hub: Any, torch_home: Path, ranges: bool, size: int
) -> None:
    url = f"{hub.address}/a.pth"
    hub.files["a.pth"], hub.cut, hub.ranges = os.urandom(4000), True, ranges
    with pytest.raises(TaskError, match="broke off"):
        download(url, None, Reporter())
    hub.cut, content = False, os.urandom(size)
    hub.files["a.pth"] = content
    assert download(url, None, Reporter()).read_bytes() == content


def test_another_part_than_was_asked_for_is_not_put_behind(hub: Any, torch_home: Path) -> None:
    url, content = f"{hub.address}/a.pth", os.urandom(4000)
    hub.files["a.pth"], hub.cut, hub.ranges = content, True, True
    with pytest.raises(TaskError, match="broke off"):
        download(url, None, Reporter())
    hub.cut, hub.early = False, 10
    assert download(url, None, Reporter()).read_bytes() == content
    assert files(torch_home) == ["a.pth", "a.pth.sha256"]


def test_what_is_only_much_the_same_is_not_gone_on_with(hub: Any, torch_home: Path) -> None:
    """Nor is a part of it, by what was told of an earlier one."""
    url, first, other = f"{hub.address}/a.pth", os.urandom(4000), os.urandom(4000)
    hub.ranges = hub.cut = True
    for content, weak in ((first, False), (other, True)):
        hub.files["a.pth"], hub.weak = content, weak
        with pytest.raises(TaskError, match="broke off"):
            download(url, None, Reporter())
    hub.files["a.pth"], hub.weak, hub.cut = first, False, False
    assert download(url, None, Reporter()).read_bytes() == first
    assert hub.starts[-1] == 0


def test_a_download_is_on_the_disk_before_it_takes_its_name(
    hub: Any, torch_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And its digest beside it: what is there has been recorded."""
    hub.files["a.pth"] = bytes(3000)
    done: list[object] = []
    fsync, replace = os.fsync, Path.replace

    def synced(descriptor: int) -> None:
        done.append(os.fstat(descriptor).st_ino)
        fsync(descriptor)

    def renamed(part: Path, path: Path) -> Path:
        done.extend([part.stat().st_ino, path.name])
        return replace(part, path)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(Path, "replace", renamed)
    place = download(f"{hub.address}/a.pth", None, Reporter())
    assert done.index(place.stat().st_ino) < done.index("a.pth.sha256") < done.index("a.pth")
    assert done[-2:] == [place.stat().st_ino, "a.pth"]


def test_a_part_that_is_whole_is_fetched_anew(
    hub: Any, torch_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held, opened = [], downloads._opened

    def asked(url: str, headers: dict[str, str]) -> Any:
        held.append((place / ".a.pth.lock").exists())  # or another process would fetch it too
        return opened(url, headers)

    monkeypatch.setattr(downloads, "_opened", asked)
    url, content = f"{hub.address}/a.pth", os.urandom(3000)
    hub.files["a.pth"], hub.ranges = content, True
    place = torch_home / "hub" / "checkpoints"
    place.mkdir(parents=True)
    (place / ".a.pth.part").write_bytes(os.urandom(3000))  # of whatever
    tag = hashlib.sha256(content).hexdigest()[:40]
    (place / ".a.pth.version").write_text(f'"{tag}"')
    assert download(url, None, Reporter()).read_bytes() == content
    assert held == [True, True]


def test_of_two_at_once_one_fetches(hub: Any, torch_home: Path) -> None:
    url, content = f"{hub.address}/a.pth", os.urandom(100_000)
    hub.files["a.pth"], hub.slow = content, 0.5
    notes = [Heard(), Heard()]
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(lambda n: download(url, None, n), notes))
    assert found[0] == found[1]
    assert found[0].read_bytes() == content
    assert hub.requests == ["GET a.pth"]
    assert sum("another process is fetching" in n.remarks[0] for n in notes) == 1


def test_a_full_disk(hub: Any, torch_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url = f"{hub.address}/a.pth"
    hub.files["a.pth"] = bytes(5_000_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=2_000_000))
    with pytest.raises(TaskError, match=r"needs 5 MB, and the disk of .* has 2 MB left; make room"):
        download(url, None, Reporter())
    monkeypatch.undo()
    error = downloads.no_room(url, torch_home, OSError(28, "No space left on device"))
    assert "does not fit the disk" in str(error)


def test_what_changes_after_the_download_is_noticed(hub: Any, torch_home: Path) -> None:
    hub.files["a.pth"] = b"weights"
    path = download(f"{hub.address}/a.pth", None, Reporter())
    digest = hashlib.sha256(b"weights").hexdigest()
    assert check("a", path, digest) == "recorded"
    with pytest.raises(TaskError, match=r"not the file .* as 'a' .*dino weights remove a"):
        check("a", path, "0" * 64)
    with pytest.raises(TaskError, match="pinned"):
        check("a", path, digest, pinned="1" * 64)
    record_path(path).unlink()
    assert check("a", path, digest) == "new"
    assert check("a", path, digest) == "recorded"
