"""Checkpoints on disk: whole or not at all, the last few kept, damage noticed."""

import errno
import os
import threading
import time

import pytest
import torch
from safetensors.torch import load_file

from dino_cli.errors import TaskError
from dino_cli.store.runs import checkpoints
from dino_cli.store.runs.checkpoints import (
    CheckpointWriter,
    find_checkpoint,
    load_checkpoint,
    stand_in,
)
from dino_cli.store.runs.events import Events
from dino_cli.store.runs.folder import RunFolder


def state(step):
    return {"format": 1, "step": step, "student": {"w": torch.full((64, 64), float(step))}}


def save(writer, step, keep_as=None):
    writer.save(state(step), {"w": torch.zeros(2)}, {"a": 1}, keep_as=keep_as)


@pytest.fixture
def folder(tmp_path):
    return RunFolder(tmp_path)


def steps(folder):
    return {p.name: load_checkpoint(p)["step"] for p in folder.path.glob("checkpoint*.pt")}


def find(folder):
    said = []
    return find_checkpoint(folder, said.append), said


def test_the_newest_ones_stay_under_numbers(folder):
    with CheckpointWriter(folder, keep=3) as writer:
        for step in range(1, 6):
            save(writer, step, keep_as="checkpoint-0002.pt" if step == 2 else None)
    assert steps(folder) == {
        "checkpoint.pt": 5,
        "checkpoint.1.pt": 4,
        "checkpoint.2.pt": 3,
        "checkpoint-0002.pt": 2,
    }
    with CheckpointWriter(folder, keep=1) as writer:
        save(writer, 6)
    assert steps(folder) == {"checkpoint.pt": 6, "checkpoint-0002.pt": 2}
    assert not list(folder.path.glob(".*"))


@pytest.mark.parametrize("keep", [2, 3])
def test_the_newest_checkpoint_is_there_at_every_instant(folder, monkeypatch, keep):
    """Where files have links, it is never moved away."""
    moved, replace = [], checkpoints.Path.replace

    def noted(self, target):
        moved.append(self)
        return replace(self, target)

    monkeypatch.setattr(checkpoints.Path, "replace", noted)
    with CheckpointWriter(folder, keep=keep) as writer:
        for step in range(1, 5):
            save(writer, step)
    assert (folder.path / "checkpoint.1.pt" in moved) == (keep == 3)
    assert folder.checkpoint not in moved


def test_a_kept_checkpoint_is_written_once(folder):
    kept = folder.path / "checkpoint-0001.pt"
    with CheckpointWriter(folder, keep=2) as writer:
        for step in (1, 2):  # the second as after a kill, which writes the same epoch again
            save(writer, step, keep_as=kept.name)
            writer.flush()
            assert kept.samefile(folder.checkpoint)
        save(writer, 3)
    assert steps(folder) == {"checkpoint.pt": 3, "checkpoint.1.pt": 2, "checkpoint-0001.pt": 2}
    assert not list(folder.path.glob(".*"))


def test_what_is_written_is_the_state_at_the_call(folder):
    tensor = torch.zeros(1_000_000)
    with CheckpointWriter(folder, keep=2) as writer:
        writer.save({"format": 1, "step": 1, "w": tensor}, {}, {})
        tensor.fill_(7)  # training goes on while the thread writes
    assert load_checkpoint(folder.checkpoint)["w"].abs().sum() == 0


@pytest.mark.parametrize("damage", ["flip", "truncate", "empty", "text", "gone"])
def test_a_damaged_checkpoint_gives_way_to_the_one_before(folder, damage):
    with CheckpointWriter(folder, keep=2) as writer:
        save(writer, 1)
        save(writer, 2)
    path = folder.checkpoint
    data = bytearray(path.read_bytes())
    middle = data.index(torch.full((64,), 2.0).numpy().tobytes()) + 1000  # in a tensor's values
    data[middle] ^= 1
    content = {"flip": data, "truncate": data[: len(data) // 2], "empty": b"", "text": b"no zip"}
    if damage == "gone":
        path.unlink()
    else:
        path.unlink()  # it may be linked to the one before
        path.write_bytes(bytes(content[damage]))
    found, said = find(folder)
    assert found is not None
    assert found.name == "checkpoint.1.pt"
    assert load_checkpoint(found)["step"] == 1
    assert said == ([] if damage == "gone" else [f"{path} is damaged; trying the one before it"])


@pytest.mark.parametrize("linked", [True, False])
def test_a_damaged_checkpoint_does_not_push_out_the_one_before(folder, monkeypatch, linked):
    def refuse(*_):
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    with CheckpointWriter(folder, keep=2) as writer:
        save(writer, 1)
        save(writer, 2)
    folder.checkpoint.unlink()
    folder.checkpoint.write_bytes(b"damaged")
    found, _ = find(folder)
    if not linked:
        monkeypatch.setattr(checkpoints.Path, "hardlink_to", refuse)
    stand_in(folder, found)
    monkeypatch.undo()
    assert steps(folder) == {"checkpoint.pt": 1, "checkpoint.1.pt": 1}
    with CheckpointWriter(folder, keep=2) as writer:
        save(writer, 3)
    assert steps(folder) == {"checkpoint.pt": 3, "checkpoint.1.pt": 1}


def test_of_several_the_newest_is_found(folder):
    for name, step in {".2": 9, ".10": 8, "-0004": 4, "-0003": 3}.items():
        torch.save(state(step), folder.path / f"checkpoint{name}.pt")
    for step in (9, 8, 4, 3):
        found, _ = find(folder)
        assert load_checkpoint(found)["step"] == step
        found.unlink()


def test_nothing_and_nothing_whole(folder):
    assert find(folder) == (None, [])
    folder.checkpoint.write_bytes(b"x")
    with pytest.raises(TaskError, match="all 1 checkpoints"):
        find(folder)


def test_a_full_disk_is_told_at_the_next_call_and_the_old_file_stays(folder, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with CheckpointWriter(folder, keep=2) as writer:
        save(writer, 1)
        writer.flush()
        monkeypatch.setattr(checkpoints.torch, "save", full)
        save(writer, 2)
        with pytest.raises(TaskError, match=r"No space left on device.*make room"):
            writer.flush()
        monkeypatch.undo()
        save(writer, 3)
    assert load_checkpoint(folder.checkpoint)["step"] == 3
    assert steps(folder)["checkpoint.1.pt"] == 1


def test_an_error_of_the_run_waits_for_the_last_write(folder, monkeypatch):
    write = checkpoints.save_state

    def slowly(*given):
        time.sleep(0.2)
        write(*given)

    monkeypatch.setattr(checkpoints, "save_state", slowly)

    def fail():
        with CheckpointWriter(folder, keep=2) as writer:
            save(writer, 1)
            raise TaskError("an error of the run", "")

    with pytest.raises(TaskError, match="of the run"):
        fail()
    assert steps(folder) == {"checkpoint.pt": 1}


def test_a_last_write_that_fails_is_told_when_the_run_ends(folder, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(checkpoints.torch, "save", full)
    with (
        pytest.raises(TaskError, match="No space left on device"),
        CheckpointWriter(folder, keep=2) as writer,
    ):
        save(writer, 1)


def test_a_second_ctrl_c_does_not_wait_for_a_write(folder, monkeypatch):
    write, go_on = checkpoints.save_state, threading.Event()

    def slowly(*given):
        go_on.wait(5)
        write(*given)

    monkeypatch.setattr(checkpoints, "save_state", slowly)
    writer = CheckpointWriter(folder, keep=2)

    def stopped():
        with writer:
            save(writer, 1)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stopped()
    assert not folder.checkpoint.exists()
    go_on.set()
    writer.flush()
    assert steps(folder) == {"checkpoint.pt": 1}


def test_a_checkpoint_of_another_version_is_not_taken_for_one_of_this(folder):
    torch.save({**state(1), "format": 2}, folder.checkpoint)
    with pytest.raises(TaskError, match="damaged or not a checkpoint of dino train"):
        load_checkpoint(folder.checkpoint)


def test_weights_laid_out_with_channels_last_are_written_as_they_are(folder):
    """As convnets' are on CUDA."""
    weights = torch.rand(4, 3, 5, 5)
    last = weights.to(memory_format=torch.channels_last)
    with CheckpointWriter(folder, keep=1) as writer:
        writer.save({"format": 1, "step": 1, "w": last}, {"w": last}, {})
    assert torch.equal(load_file(folder.teacher)["w"], weights)
    kept = load_checkpoint(folder.checkpoint)["w"]
    assert torch.equal(kept, weights)
    assert kept.is_contiguous()


def test_an_error_without_words_is_told_by_its_name(folder, monkeypatch):
    def fail(*_):
        raise MemoryError

    monkeypatch.setattr(checkpoints.torch, "save", fail)
    with CheckpointWriter(folder, keep=2) as writer:
        save(writer, 1)
        with pytest.raises(TaskError, match=r"cannot write the checkpoint .*\(MemoryError\)"):
            writer.flush()


def test_a_file_system_without_links(folder, monkeypatch):
    def refuse(*_):
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(checkpoints.Path, "hardlink_to", refuse)
    with CheckpointWriter(folder, keep=2) as writer:
        save(writer, 1, keep_as="checkpoint-0001.pt")
        save(writer, 2)
    assert steps(folder) == {"checkpoint.pt": 2, "checkpoint.1.pt": 1, "checkpoint-0001.pt": 1}


def test_a_folder_whose_name_is_no_utf8(tmp_path):
    folder = RunFolder(tmp_path / os.fsdecode(b"caf\xe9"))
    folder.path.mkdir()
    with CheckpointWriter(folder, keep=1) as writer:
        save(writer, 3)
    assert find(folder) == (folder.checkpoint, [])
    assert load_checkpoint(folder.checkpoint, mmap=True)["step"] == 3
    pytest.importorskip("tensorboard")
    Events(folder.path).write({"step": 0, "loss": 1.0})  # it has no curves, and goes on
