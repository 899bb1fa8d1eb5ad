"""What one process does when another, or itself, fails."""

from contextlib import suppress

import pytest
import torch

from dino_cli.errors import PeerLost, TaskError
from dino_cli.runtime import Ranks, rank_device, ranks, ranks_from_environment


@pytest.mark.parametrize("error", [OSError("disk"), ValueError("bug"), TaskError("known")])
def test_any_error_of_the_first_process_reaches_the_others(monkeypatch, error):
    """Left in the broadcast, they would wait for it for half an hour."""
    sent = []

    def fail():
        raise error

    monkeypatch.setattr(
        torch.distributed, "broadcast_object_list", lambda box, src: sent.extend(box)
    )
    with pytest.raises(type(error)):
        Ranks(rank=0, count=2).first(fail)
    assert len(sent) == 2

    def receive(box, src):
        box[:] = sent

    monkeypatch.setattr(torch.distributed, "broadcast_object_list", receive)
    expected = TaskError if isinstance(error, TaskError) else PeerLost
    for local_rank in ("1", "0"):  # of the same machine, of another
        monkeypatch.setenv("LOCAL_RANK", local_rank)
        with pytest.raises(expected, match=str(error)) as raised:
            Ranks(rank=1, count=2).first(fail)
        assert raised.value.told == (local_rank == "1")


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("NCCL error\nLast error:\nsocketProgress: Connection closed by remote peer", PeerLost),
        ("NCCL error\nLast error:\nCuda failure 2 'out of memory'", RuntimeError),
        ("NCCL error\nLast error:\nFailed to CUDA calloc async 608 bytes", RuntimeError),
    ],
)
def test_a_full_gpu_is_not_taken_for_a_peer_that_is_gone(said, expected):
    with pytest.raises((PeerLost, RuntimeError)) as raised, Ranks(count=2).peers_watched("again"):
        raise torch.distributed.DistBackendError(said)
    assert isinstance(raised.value, expected)


@pytest.mark.parametrize("fails", [False, True])
def test_after_an_error_on_a_gpu_nobody_waits_for_the_others(monkeypatch, fails):
    """As the orderly end of NCCL does, which came before the sentence that says what is wrong."""
    called = []
    for name, value in {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(torch.cuda, "set_device", lambda _: None)
    monkeypatch.setattr(ranks, "_join", lambda *_: None)
    monkeypatch.setattr(ranks, "_abort_process_group", lambda: called.append("abort"))
    monkeypatch.setattr(torch.distributed, "destroy_process_group", lambda: called.append("end"))
    with suppress(TaskError), ranks_from_environment(torch.device("cuda")):
        if fails:
            raise TaskError("something")
    assert called == (["abort"] if fails else ["end"])


def test_a_gpu_has_the_number_that_nccl_wants_and_is_the_current_one(monkeypatch):
    """Of a process that was started without a launcher, and of one alone."""
    chosen = []
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    for name, value in {"is_available": True, "device_count": 2, "current_device": 1}.items():
        monkeypatch.setattr(torch.cuda, name, lambda value=value: value)
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    for name in ("cuda", "cuda:0"):
        with ranks_from_environment(rank_device(name)):
            pass
    assert chosen == [torch.device("cuda:1"), torch.device("cuda:0")]


def test_a_process_that_does_not_answer_is_waited_for_in_minutes(monkeypatch):
    joined = []
    for name, value in {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("TORCHELASTIC_RESTART_COUNT", raising=False)
    monkeypatch.setattr(
        torch.distributed, "init_process_group", lambda *given, **options: joined.append(options)
    )
    monkeypatch.setattr(torch.distributed, "destroy_process_group", lambda: joined.append("end"))
    with ranks_from_environment(torch.device("cpu"), minutes=1.5) as found:
        assert (found.rank, found.count) == (1, 2)
    assert joined[0]["timeout"].total_seconds() == 90
    assert joined[1:] == ["end"]
    joined.clear()
    with suppress(TaskError), ranks_from_environment(torch.device("cpu")):
        raise TaskError("something")
    assert joined[1:] == ["end"]  # which tells the others


def test_a_mean_over_processes_is_their_sum_by_their_number(monkeypatch):
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda tensor: tensor.add_(5.0))
    assert Ranks(rank=0, count=4).average(torch.tensor([3.0, 7.0])).tolist() == [2.0, 3.0]
    assert Ranks().average(torch.tensor([3.0])).tolist() == [3.0]
