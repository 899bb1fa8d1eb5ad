"""How many processes there are to be, how they are started, and who is to blame for their end."""

import os

import pytest
import torch
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure
from torch.distributed.launcher import api

from dino_cli.errors import Interrupted, TaskError, UsageError
from dino_cli.runtime import launch, processes_wanted


@pytest.mark.parametrize(
    ("gpus", "device", "here", "count"),
    [
        ("all", "auto", 4, 4), ("all", "cuda", 4, 4), ("all", "auto", 0, 1), ("all", "cpu", 4, 1),
        ("all", "cuda:1", 4, 1), ("2", "auto", 4, 2), ("2", "cuda", 2, 2), ("1", "auto", 0, 1),
        ("3", "cpu", 0, 3), ("1", "mps", 0, 1),
    ],
)  # fmt: skip
def test_processes_are_as_many_as_gpus_unless_told_otherwise(
    monkeypatch, gpus, device, here, count
):
    monkeypatch.delenv("RANK", raising=False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: here)
    assert processes_wanted(gpus, device) == count
    monkeypatch.setenv("RANK", "0")  # one of those that torchrun has started
    assert processes_wanted(gpus, device) == 1


@pytest.mark.parametrize(
    ("gpus", "device", "here", "told"),
    [
        ("2", "auto", 1, "--gpus 2 asked for, but there are 1 here"),
        ("2", "auto", 0, "--gpus 2 asked for, but there are 0 here"),
        ("5", "cuda", 4, "--gpus 5 asked for, but there are 4 here"),
        ("2", "cuda:0", 4, "--gpus 2 does not go with --device cuda:0"),
        ("-1", "auto", 4, "--gpus '-1' is neither all nor a number"),
    ],
)
def test_more_processes_than_gpus_are_refused(monkeypatch, gpus, device, here, told):
    monkeypatch.delenv("RANK", raising=False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: here)
    with pytest.raises(UsageError, match=told):
        processes_wanted(gpus, device)


@pytest.fixture
def ended(monkeypatch):
    """Start three processes that end with these codes, and how they were started."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", "30")

    def start(*codes):
        started = []

        def elastic_launch(config, program):
            def run(*words):
                started.append((config, words))
                failures = {
                    rank: ProcessFailure(local_rank=rank, pid=1, exitcode=code, error_file="")
                    for rank, code in enumerate(codes)
                    if code
                }
                if failures:
                    raise ChildFailedError("dino", failures)

            return run

        monkeypatch.setattr(api, "elastic_launch", elastic_launch)
        launch(3, ["train", "x"], go_on="go on with: dino")
        return started

    return start


def test_processes_hear_the_signals_that_ask_to_stop_and_get_time_to_save(ended):
    ((config, words),) = ended(0, 0, 0)
    assert words == ("-m", "dino_cli", "train", "x")
    assert (config.nproc_per_node, config.max_restarts) == (3, 0)
    if hasattr(config, "signals_to_handle"):
        assert {"SIGTERM", "SIGINT", "SIGUSR1"} <= set(config.signals_to_handle.split(","))
    assert os.environ["TORCH_ELASTIC_SHUTDOWN_TIMEOUT"] == "120"


@pytest.mark.parametrize(
    ("codes", "told"),
    [
        ((-15, -9, -15), "process 1 of 3 was killed by SIGKILL; the others were ended"),
        ((1, -11, -15), "process 1 of 3 was killed by SIGSEGV; the others were ended"),
        ((-15, -15, -15), "process 0 of 3 was killed by SIGTERM; the others were ended"),
        ((-15, 1, -15), ""),  # it has said why
        ((130, 1, 130), ""),
    ],
)
def test_of_processes_that_end_together_the_one_that_was_killed_is_named(ended, codes, told):
    with pytest.raises(TaskError) as raised:
        ended(*codes)
    assert raised.value.what == told
    assert raised.value.fix == ("go on with: dino" if told else "")


def test_a_wrong_option_stays_one_and_a_stop_of_all_is_a_stop(ended):
    with pytest.raises(UsageError):
        ended(2, -15, -15)
    with pytest.raises(Interrupted):
        ended(130, 130, 130)
