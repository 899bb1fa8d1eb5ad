"""The processes that train together: who I am among them, and what we tell each other."""

import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
from torch import nn
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import bf16_compress_hook
from torch.distributed.distributed_c10d import PrefixStore, _abort_process_group
from torch.distributed.rendezvous import rendezvous

from dino_cli.errors import DinoError, PeerLost, UsageError
from dino_cli.runtime.batch_norm import check_batch_norm, with_rank_batch_norm
from dino_cli.runtime.devices import choose_device

__all__ = ["Ranks", "distribute", "rank_device", "ranks_from_environment"]

T = TypeVar("T")
N = TypeVar("N", bound=nn.Module)


@dataclass(frozen=True, kw_only=True)
class Ranks:
    """This process among those that train together (launched by torchrun or SLURM through it)."""

    rank: int = 0
    count: int = 1

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

    def first(self, make: Callable[[], T]) -> T:
        """What `make` returns on rank 0, or raises there, on every rank; a collective.

        What is no error of ours is a `PeerLost` on the others: they are not to blame. Of an error
        that rank 0 tells, the others of its machine are silent.
        """
        if self.count == 1:
            return make()
        box: list[Any] = [None, None]
        if self.rank == 0:
            try:
                box[0] = make()
            except DinoError as error:
                box[1] = error
            except Exception as error:
                reason = f"{type(error).__name__}: {error}"
                lost = PeerLost(f"process 0 of this run has failed ({reason})", "see what it says")
                torch.distributed.broadcast_object_list([None, lost], src=0)
                raise
        torch.distributed.broadcast_object_list(box, src=0)
        if box[1] is not None:
            box[1].told = self.rank > 0 and os.environ.get("LOCAL_RANK", "0") != "0"
            raise box[1]
        return box[0]  # type: ignore[no-any-return]

    def share(self, value: T) -> T:
        """Rank 0's value, on every rank; a collective."""
        return self.first(lambda: value)

    def everyone(self, value: T) -> list[T]:
        """The value of each rank, in their order; a collective."""
        if self.count == 1:
            return [value]
        values: list[Any] = [None] * self.count
        torch.distributed.all_gather_object(values, value)
        return values

    @contextmanager
    def peers_watched(self, go_on: str) -> Iterator[None]:
        """Raise `PeerLost` where a collective fails because another process is gone.

        go_on: how to continue, for that message.
        """
        try:
            yield
        except RuntimeError as error:
            text = str(error)
            lost = isinstance(error, torch.distributed.DistError) or any(
                sign in text for sign in ("gloo", "NCCL", "closed by peer", "reset by peer")
            )
            # NCCL takes memory of the GPU as it goes: then it is this process that fails.
            full = any(sign in text for sign in ("out of memory", "Failed to CUDA"))
            if self.count == 1 or full or not lost:
                raise
            reason = text.strip().splitlines()[-1].strip()
            raise PeerLost(
                f"another process of this run is gone or does not answer ({reason})", go_on
            ) from None

    def synchronize_batch_norm(self, network: N, device: torch.device) -> N:
        """The network with batch norm over the batches of all ranks, as the reference does.

        Raises `UsageError` for a kind of batch norm that cannot be replaced.
        """
        check_batch_norm(network)
        if device.type == "cuda":
            # Not torch's own, which forgets the activations that timm's layers hold.
            from timm.layers import convert_sync_batchnorm

            return convert_sync_batchnorm(network)  # type: ignore[no-any-return]
        return with_rank_batch_norm(network)


def distribute(network: nn.Module, *, compress: bool) -> nn.parallel.DistributedDataParallel:
    """The network whose backward averages gradients over ranks; compress: sent as bf16."""
    with warnings.catch_warnings():
        # The name of `broadcast_buffers` changes in torch 2.14; both sides must still work.
        warnings.simplefilter("ignore", FutureWarning)
        wrapped = nn.parallel.DistributedDataParallel(
            network, broadcast_buffers=False, gradient_as_bucket_view=True
        )
    if compress:
        wrapped.register_comm_hook(None, bf16_compress_hook)
    return wrapped


@contextmanager
def ranks_from_environment(device: torch.device, *, minutes: float = 30.0) -> Iterator[Ranks]:
    """The process group that torchrun's variables describe; a single process without them.

    minutes: how long a collective waits for a process that does not answer. A GPU becomes torch's
    current one, for good: NCCL, streams and pinned memory go by it.
    """
    if device.type == "cuda":
        torch.cuda.set_device(device)
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if count == 1 or "RANK" not in os.environ:
        yield Ranks()
        return
    ranks = Ranks(rank=int(os.environ["RANK"]), count=count)
    _join(ranks, device, timedelta(minutes=minutes))
    try:
        yield ranks
    except BaseException:
        _abandon(device)
        raise
    torch.distributed.destroy_process_group()


def _abandon(device: torch.device) -> None:
    """Leave the process group after an error here.

    NCCL's orderly end waits for what is under way, which the others will never answer: nobody would
    learn of the error. Closing gloo's connections waits for nobody, and tells the others.
    """
    with suppress(Exception):
        if device.type == "cuda":
            _abort_process_group()
        else:
            torch.distributed.destroy_process_group()


def _join(ranks: Ranks, device: torch.device, patience: timedelta) -> None:
    """Start the process group.

    torchrun keeps its store when it starts processes again, and with it the addresses of those that
    died. On one machine all of them know how often that was, so each attempt gets names of its own.
    """
    cuda = device.type == "cuda"
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    here = int(os.environ.get("LOCAL_WORLD_SIZE", "0")) == ranks.count
    place: dict[str, Any] = {}
    if here and attempt != "0":
        found = rendezvous("env://", ranks.rank, ranks.count, timeout=patience)
        store, rank, count = next(iter(found))
        store = PrefixStore(f"attempt_{attempt}", store)
        place = {"store": store, "rank": rank, "world_size": count}
    torch.distributed.init_process_group(
        "nccl" if cuda else "gloo", device_id=device if cuda else None, timeout=patience, **place
    )


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
