"""Starts one process per GPU on this machine, through torch's own launcher."""

import logging
import os
import signal
import sys
from collections.abc import Sequence
from dataclasses import fields
from typing import Any

import torch

from dino_cli.errors import Interrupted, TaskError, UsageError
from dino_cli.runtime.devices import available_cores

__all__ = ["gpus_asked", "launch", "processes_wanted"]

SECONDS_TO_SAVE = 120  # what the processes get to write a checkpoint before they are killed
SIGNALS = "SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1"


def processes_wanted(gpus: str, device: str) -> int:
    """How many processes `--gpus` and `--device` ask for; 1 under torchrun, which started them.

    gpus: "all" or a number. On a CPU a number starts so many processes there. Raises `UsageError`.
    """
    count = 0 if gpus == "all" else gpus_asked(gpus)
    if "RANK" in os.environ:
        return 1
    here = torch.cuda.device_count() if device in ("auto", "cuda") else 0
    if count == 0:
        return max(1, here)
    if count > 1 and device not in ("cpu", "auto", "cuda"):
        raise UsageError(f"--gpus {count} does not go with --device {device}", "leave one out")
    if device in ("auto", "cuda") and count > max(1, here):
        raise UsageError(
            f"--gpus {count} asked for, but there are {here} here",
            "use --gpus all, or --device cpu for processes on the CPU",
        )
    return count


def gpus_asked(gpus: str) -> int:
    """The number in `--gpus`, where it is not "all". Raises `UsageError`."""
    if not (gpus.isascii() and gpus.isdigit() and int(gpus) > 0):
        raise UsageError(f"--gpus {gpus!r} is neither all nor a number", "write --gpus all or 4")
    return int(gpus)


def launch(count: int, arguments: Sequence[str], *, go_on: str) -> None:
    """Run `dino ARGUMENTS` in `count` processes and wait for them; what they print passes through.

    A signal goes on to all of them. When one dies, the others are ended. Raises `Interrupted` when
    they were asked to stop, `TaskError` when one failed; go_on: how to continue, for that message.
    """
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    _silence()
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, available_cores() // count)))
    os.environ["TORCH_ELASTIC_SHUTDOWN_TIMEOUT"] = str(SECONDS_TO_SAVE)
    extra: dict[str, Any] = {"signals_to_handle": SIGNALS}
    known = {field.name for field in fields(LaunchConfig)}
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=count,
        run_id=f"dino-{os.getpid()}",
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        local_addr="localhost",
        max_restarts=0,
        **{name: value for name, value in extra.items() if name in known},
    )
    command = ["-m", "dino_cli", *arguments]
    try:
        elastic_launch(config, sys.executable)(*command)
    except SignalException:
        raise Interrupted("") from None  # the first process has said how to go on
    except ChildFailedError as error:
        failures = error.failures
        if all(failure.exitcode == Interrupted.exit_code for failure in failures.values()):
            raise Interrupted("") from None
        rank = min(failures, key=lambda r: _innocence(failures[r].exitcode))
        code = failures[rank].exitcode
        if code > 0:  # it has said why
            raise (UsageError if code == UsageError.exit_code else TaskError)("") from None
        name = signal.Signals(-code).name
        raise TaskError(
            f"process {rank} of {count} was killed by {name}; the others were ended", go_on
        ) from None


def _innocence(exit_code: int) -> int:
    """Order of failures that come together: who was killed, who failed, whom the launcher ended."""
    if exit_code > 0:
        return 1
    return 2 if exit_code == -signal.SIGTERM else 0


def _silence() -> None:
    """The launcher's own log lines; what they say, we say in a sentence."""
    for name in list(logging.root.manager.loggerDict):
        if name.startswith("torch.distributed"):
            logging.getLogger(name).setLevel(logging.CRITICAL)
