"""Reading files of tensors: many of them, under any name, and while others replace them."""

import os

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from dino_cli.store.weights import tensor_files
from dino_cli.store.weights.tensor_files import read_tensor_file


@pytest.fixture
def opened(monkeypatch):
    """What stands in `calls` is called whenever a .safetensors is opened."""
    calls = []

    def counting(*arguments, **options):
        for call in calls:
            call()
        return safe_open(*arguments, **options)

    monkeypatch.setattr(tensor_files, "safe_open", counting)
    return calls


def test_the_header_is_not_read_for_each_tensor(tmp_path, opened):
    """Which took minutes for twenty thousand of them."""
    seen = []
    opened.append(lambda: seen.append(1))
    tensors = {f"{i}": torch.full((2,), float(i)) for i in range(500)}
    save_file(tensors, tmp_path / "w.safetensors")
    found = read_tensor_file(tmp_path / "w.safetensors").content
    assert all(torch.equal(found[name], tensor) for name, tensor in tensors.items())
    assert len(seen) <= 3


def test_a_file_replaced_while_it_is_read_is_not_mixed_with_the_new_one(
    tmp_path, opened, monkeypatch
):
    path, new = tmp_path / "teacher.safetensors", tmp_path / "new"
    save_file({name: torch.zeros(3) for name in "abc"}, path)
    save_file({name: torch.ones(3) for name in "abc"}, new)
    seen: list[int] = []

    def replace():  # as it is opened for the third time
        seen.append(1)
        if len(seen) == 3:
            new.replace(path)

    opened.append(replace)
    monkeypatch.setattr(tensor_files, "MAPPED", 1)
    found = read_tensor_file(path).content
    assert not new.exists()
    assert {name: float(tensor.sum()) for name, tensor in found.items()} == dict.fromkeys("abc", 0)


@pytest.mark.parametrize("beside", [{}, {"epoch": 1}])
def test_names_that_are_no_utf8(tmp_path, beside):
    folder = tmp_path / os.fsdecode(b"caf\xe9")
    folder.mkdir()
    w = torch.arange(3.0)
    save_file({"w": w}, tmp_path / "w")
    (tmp_path / "w").rename(folder / "w.safetensors")
    with (folder / "w.pth").open("wb") as file:
        torch.save({"w": w, **beside}, file)
    for path in folder.iterdir():
        assert torch.equal(read_tensor_file(path).content["w"], w)
