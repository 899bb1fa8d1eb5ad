"""The machine: devices and precision, ranks, signals. Imports torch; open to tasks, data, store."""

from dino_cli.runtime.devices import (
    Precision,
    autocast,
    available_cores,
    choose_device,
    choose_precision,
    one_thread,
)
from dino_cli.runtime.ranks import Ranks, rank_device, ranks_from_environment
from dino_cli.runtime.signals import ignore_signals, signals_held, stop_requests

__all__ = [
    "Precision",
    "Ranks",
    "autocast",
    "available_cores",
    "choose_device",
    "choose_precision",
    "ignore_signals",
    "one_thread",
    "rank_device",
    "ranks_from_environment",
    "signals_held",
    "stop_requests",
]
