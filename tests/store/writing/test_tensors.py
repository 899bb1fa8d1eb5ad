"""Tensors go to files in the same bytes each time, and a full disk is an `OSError`."""

import errno
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from dino_cli.store.writing.atomic import atomic_write
from dino_cli.store.writing.tensors import save_state, save_tensors

TEXTS = {"format": "pt", "dino": '{"a": "ü\\n"}', "z": "", "model": "x", "b": "🦕"}


@pytest.mark.parametrize("more", range(8))  # the library fills a header up to eight bytes
def test_the_same_content_makes_the_same_bytes(tmp_path, more):
    texts = {**TEXTS, "z": more * "z"}
    tensors = {"w": torch.arange(6.0).reshape(2, 3), "b": torch.ones(1, dtype=torch.float16)}
    seen = set()
    for i in range(6):
        path = tmp_path / f"{i}.safetensors"
        save_tensors(path, tensors, dict(reversed(texts.items())) if i % 2 else texts)
        seen.add(path.read_bytes())
    assert len(seen) == 1
    with safe_open(path, "pt") as file:
        assert file.metadata() == texts
        assert torch.equal(file.get_tensor("w"), tensors["w"])
        assert torch.equal(file.get_tensor("b"), tensors["b"])


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the system has no full disk")
def test_a_full_disk_is_named():
    """torch itself complains of a position that it did not expect."""
    with pytest.raises(OSError, match="No space left on device"):
        save_state(Path("/dev/full"), {"w": torch.ones(9000)})


@pytest.mark.slow
@pytest.mark.parametrize("call", ["save_tensors(path, state)", "save_state(path, state)"])
@pytest.mark.parametrize("limit", [0, 100, 5000])
def test_a_full_disk_is_an_os_error(tmp_path, call, limit):
    code = (
        "import resource, torch\n"
        "from pathlib import Path\n"
        "from dino_cli.store.writing.tensors import save_state, save_tensors\n"
        f"path, state = Path({str(tmp_path / 'x')!r}), {{'w': torch.ones(9000)}}\n"
        f"resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))\n"
        f"try:\n    {call}\nexcept OSError as error:\n    print(error.errno)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == str(errno.EFBIG), done.stderr


def test_the_file_that_is_named_is_the_one_that_is_written(tmp_path):
    """No other beside it, which would stay when it is killed, and nobody would hold."""
    with atomic_write(tmp_path / "w.safetensors") as temporary:
        before = temporary.stat().st_ino
        save_tensors(temporary, {"w": torch.ones(9)})
        assert temporary.stat().st_ino == before
        assert list(tmp_path.iterdir()) == [temporary]


def test_tensors_of_any_memory(tmp_path):
    shared = torch.arange(12.0).reshape(3, 4)
    tensors = {
        "columns": shared.T,
        "part": shared[1:],
        "none": torch.ones(0, 2),
        "one": torch.tensor(3),
        "brain": torch.ones(3, dtype=torch.bfloat16),
        "trained": torch.nn.Parameter(torch.ones(2)),
    }
    save_tensors(tmp_path / "w.safetensors", tensors)
    found = load_file(tmp_path / "w.safetensors")
    assert found.keys() == tensors.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in tensors.items())


def test_what_is_wrong_with_the_state_is_not_called_a_disk(tmp_path):
    with (tmp_path / "x").open("wb") as file, pytest.raises(AttributeError):
        save_state(file, {"a": lambda: 0})
