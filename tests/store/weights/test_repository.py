"""A model of the hub that is divided into several files, in this process."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants, utils
from in_process import dino, refusal

PARTS = {"model-1-of-2.safetensors": b"first", "model-2-of-2.safetensors": b"second"}
INDEX = "model.safetensors.index.json"


@pytest.fixture
def cache(hub: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The empty cache of the repository someone/big, which the server has."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    template = constants.HUGGINGFACE_CO_URL_TEMPLATE.replace(constants.ENDPOINT, hub.address)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "ENDPOINT", hub.address)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    # A session of another test may go through a proxy; before 1.0 they were several.
    (getattr(utils, "close_session", None) or utils.reset_sessions)()
    index = {"weight_map": {str(i): name for i, name in enumerate(PARTS)}}
    files = {"config.json": b"{}", "preprocessor_config.json": b"{ }", **PARTS}
    for name, content in {**files, INDEX: json.dumps(index).encode()}.items():
        hub.add("someone/big", name, content)
    return tmp_path / "hub" / "models--someone--big"


def test_all_of_a_divided_model_is_fetched_and_copied(cache: Path, tmp_path: Path) -> None:
    dino("weights", "download", "someone/big", "--to", tmp_path / "kept", "--quiet")
    copied = tmp_path / "kept" / "someone--big"
    names = ["config.json", *PARTS, INDEX, "preprocessor_config.json"]
    assert sorted(path.name for path in copied.iterdir()) == names
    assert {name: (copied / name).read_bytes() for name in PARTS} == PARTS


@pytest.mark.parametrize("name", ["config.json", *PARTS])
def test_what_a_divided_model_lacks_is_fetched(hub: Any, cache: Path, name: str) -> None:
    dino("weights", "download", "someone/big", "--quiet")
    folder = Path(dino("weights", "path", "someone/big").stdout.rstrip("\n"))
    for path in ((folder / name).resolve(), folder / name):  # a link to the content
        path.unlink()
    assert "'someone/big' is not on this disk" in refusal(1, "weights", "path", "someone/big")
    hub.requests.clear()
    dino("weights", "download", "someone/big", "--quiet")
    assert (folder / name).is_file()
    fetched = [request for request in hub.requests if request.startswith("GET")]
    assert fetched == [f"GET someone/big/resolve/main/{name}"]


def test_a_part_that_is_not_what_the_hub_names_is_dropped(hub: Any, cache: Path) -> None:
    hub.wrong = True  # its ETag is the SHA-256 of another file
    told = refusal(1, "weights", "download", "someone/big", "--quiet")
    first = "model-1-of-2.safetensors"
    assert f"{first}' is not the file that was published as 'someone/big'" in told
    assert "the download was dropped: try again" in told
    blob = cache / "blobs" / hashlib.sha256(b"another" + PARTS[first]).hexdigest()
    assert blob.parent.is_dir()
    assert not blob.exists()
