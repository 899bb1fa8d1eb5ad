"""The processes that train together: who I am among them, and what we tell each other."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from dino_cli.errors import UsageError
from dino_cli.runtime.devices import choose_device

__all__ = ["Ranks", "rank_device", "ranks_from_environment"]


@dataclass(frozen=True, kw_only=True)
class Ranks:
    """This process among those that train together (launched by torchrun or SLURM through it)."""

    rank: int = 0
    count: int = 1
    local_rank: int = 0

    def average(self, tensor: torch.Tensor) -> torch.Tensor:
        """Mean of a tensor over all ranks; one collective."""
        if self.count > 1:
            torch.distributed.all_reduce(tensor)
            tensor = tensor / self.count
        return tensor

    def any(self, flag: bool, device: torch.device) -> bool:
        """Whether any rank says so; a collective, so all ranks must ask."""
        if self.count == 1:
            return flag
        said = torch.tensor(float(flag), device=device)
        torch.distributed.all_reduce(said, torch.distributed.ReduceOp.MAX)
        return bool(said.item())

    def barrier(self) -> None:
        if self.count > 1:
            torch.distributed.barrier()


@contextmanager
def ranks_from_environment(device: torch.device) -> Iterator[Ranks]:
    """The process group that torchrun's variables describe; a single process without them."""
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if count == 1 or "RANK" not in os.environ:
        yield Ranks()
        return
    ranks = Ranks(
        rank=int(os.environ["RANK"]),
        count=count,
        local_rank=int(os.environ.get("LOCAL_RANK", os.environ["RANK"])),
    )
    if device.type == "cuda":
        torch.cuda.set_device(device)
        torch.distributed.init_process_group("nccl", device_id=device)
    else:
        torch.distributed.init_process_group("gloo")
    try:
        yield ranks
    finally:
        torch.distributed.destroy_process_group()


def rank_device(name: str) -> torch.device:
    """The device of this rank: under torchrun `auto` and `cuda` mean the local rank's GPU."""
    local = os.environ.get("LOCAL_RANK")
    if name.startswith("cuda:") and int(os.environ.get("LOCAL_WORLD_SIZE", "1")) > 1:
        raise UsageError(
            f"--device {name} would put all processes on one GPU", "use --device cuda or auto"
        )
    if local is not None and name in ("auto", "cuda") and torch.cuda.is_available():
        return choose_device(f"cuda:{local}")
    return choose_device(name)
