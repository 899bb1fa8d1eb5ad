"""The machine: devices and precision, ranks, signals. Imports torch; open to tasks, data, store."""

from dino_cli.runtime.devices import (
    DTYPES,
    SMALL_NETWORK,
    Precision,
    autocast,
    available_cores,
    choose_device,
    choose_precision,
    cores_per_process,
    one_thread,
    usable_threads,
)
from dino_cli.runtime.launch import gpus_asked, launch, processes_wanted
from dino_cli.runtime.ranks import Ranks, distribute, rank_device, ranks_from_environment
from dino_cli.runtime.signals import (
    StopOverdue,
    check_stop,
    forking,
    ignore_signals,
    starting_workers,
    stop_requests,
)

__all__ = [
    "DTYPES",
    "SMALL_NETWORK",
    "Precision",
    "Ranks",
    "StopOverdue",
    "autocast",
    "available_cores",
    "check_stop",
    "choose_device",
    "choose_precision",
    "cores_per_process",
    "distribute",
    "forking",
    "gpus_asked",
    "ignore_signals",
    "launch",
    "one_thread",
    "processes_wanted",
    "rank_device",
    "ranks_from_environment",
    "starting_workers",
    "stop_requests",
    "usable_threads",
]
