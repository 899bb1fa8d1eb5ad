"""Original files by their address, from a server on this machine."""

import os
import threading
from pathlib import Path
from typing import Any

import pytest
import torch

from dino_cli.errors import TaskError
from dino_cli.progress import Reporter
from dino_cli.store.weights.download import Unanswered, cached_download, download, within
from dino_cli.store.weights import download as downloads


def test_a_call_that_hangs_is_given_up() -> None:
    never = threading.Event()
    with pytest.raises(Unanswered):
        within(0.05, never.wait)
    never.set()
    assert within(5, lambda: 3) == 3
    with pytest.raises(ZeroDivisionError):
        within(5, lambda: 1 // 0)


class Notes(Reporter):
    def __init__(self) -> None:
        self.said: list[str] = []
        self.done = 0

    def remark(self, text: str) -> None:
        self.said.append(text)

    def advance(self, count: int = 1) -> None:
        self.done += count


@pytest.fixture
def torch_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    return tmp_path / "torch"


def test_original_files_go_where_torch_hub_keeps_them(hub: Any, torch_home: Path) -> None:
    url, content = f"{hub.address}/dino/a_pretrain/a.pth", os.urandom(3 << 20)
    hub.files["dino/a_pretrain/a.pth"] = content
    assert cached_download(url) is None
    notes = Notes()
    path = download(url, None, notes)
    assert path == torch_home / "hub" / "checkpoints" / "a.pth"
    assert path == Path(torch.hub.get_dir()) / "checkpoints" / "a.pth"
    assert path.read_bytes() == content
    assert cached_download(url) == path
    assert notes.done >= 3
    assert "(3 MB)" in notes.said[0]


def test_original_files_that_do_not_arrive_leave_nothing(hub: Any, torch_home: Path) -> None:
    url = f"{hub.address}/a.pth"
    with pytest.raises(Unanswered, match="answered 404"):
        download(url, None, Reporter())
    hub.files["a.pth"] = bytes(5000)
    with pytest.raises(TaskError, match="SHA-256"):
        download(url, "0" * 64, Reporter())
    hub.cut = True
    with pytest.raises(TaskError, match=r"broke off after 2500 of 5000|failed"):
        download(url, None, Reporter())
    hub.server.shutdown()
    hub.server.server_close()
    with pytest.raises(Unanswered, match="does not answer"):
        download(url, None, Reporter())
    assert [path for path in torch_home.rglob("*") if path.is_file()] == []
    assert downloads.ANSWER_SECONDS < downloads.GIVE_UP_SECONDS < 5
