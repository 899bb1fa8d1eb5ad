"""Batch norm over the batches of all processes, for CPUs: torch's own does it on GPUs only."""

from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from dino_cli.errors import UsageError

__all__ = ["RankBatchNorm", "check_batch_norm", "with_rank_batch_norm"]

PLAIN = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)

N = TypeVar("N", bound=nn.Module)


class _Average(torch.autograd.Function):
    """Mean over ranks, differentiable: the gradient is the mean of all ranks' gradients."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, ranks: int) -> Tensor:
        ctx.ranks = ranks
        return _averaged(values, ranks)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return _averaged(gradients[0], ctx.ranks), None


def _averaged(values: Tensor, ranks: int) -> Tensor:
    total = values.clone(memory_format=torch.contiguous_format)
    torch.distributed.all_reduce(total)
    return total / ranks


class RankBatchNorm(_BatchNorm):
    """(B, C, …) normalised with mean and variance over B of all ranks, each with as many images.

    Its parameters and buffers are those of the layer it stands for.
    """

    def _check_input_dim(self, input: Tensor) -> None:
        if input.ndim < 2:
            raise ValueError(f"expected (B, C, …), got {input.ndim} dimensions")

    def forward(self, input: Tensor) -> Tensor:
        if not self.training:
            return super().forward(input)
        ranks = torch.distributed.get_world_size()
        axes = [0, *range(2, input.ndim)]
        shape = [1, -1, *[1] * (input.ndim - 2)]
        count = input.numel() // input.shape[1] * ranks
        x = input.float()
        # Two passes: the one-pass formula loses digits where the mean is large.
        mean = _Average.apply(x.mean(dim=axes), ranks)
        centred = x - mean.view(shape)
        variance = _Average.apply(centred.square().mean(dim=axes), ranks)
        if self.running_mean is not None and self.running_var is not None:
            momentum = 0.1 if self.momentum is None else self.momentum
            with torch.no_grad():
                self.running_mean.lerp_(mean, momentum)
                self.running_var.lerp_(variance * count / max(1, count - 1), momentum)
                if self.num_batches_tracked is not None:
                    self.num_batches_tracked.add_(1)
        y: Tensor = centred * (variance + self.eps).rsqrt().view(shape)
        if self.affine:
            y = y * self.weight.view(shape) + self.bias.view(shape)
        return y.to(input.dtype)


class RankBatchNormAct(RankBatchNorm):
    """For timm's layers, which also drop and activate what they have normalised."""

    drop: nn.Module
    act: nn.Module

    def forward(self, input: Tensor) -> Tensor:
        y: Tensor = self.act(self.drop(super().forward(input)))
        return y


def check_batch_norm(network: nn.Module) -> None:
    """Raise `UsageError` for a batch norm that may do more than what stands for it would."""
    for layer in network.modules():
        if isinstance(layer, _BatchNorm) and type(layer) not in PLAIN and not _activates(layer):
            raise UsageError(
                f"the network has batch norm of its own kind ({type(layer).__name__}), which does "
                "not go over several processes",
                "use one process, or another --arch",
            )


def _activates(layer: _BatchNorm) -> bool:
    from timm.layers import BatchNormAct2d  # most who import this need no timm

    return type(layer) is BatchNormAct2d


def with_rank_batch_norm(network: N) -> N:
    """`network` with every batch norm replaced, in place where it is not one itself."""
    for name, child in network.named_children():
        if isinstance(child, _BatchNorm) and not isinstance(child, RankBatchNorm):
            setattr(network, name, _over_ranks(child))
        else:
            with_rank_batch_norm(child)
    return network


def _over_ranks(old: _BatchNorm) -> RankBatchNorm:
    kind = RankBatchNormAct if _activates(old) else RankBatchNorm
    layer = kind(old.num_features, old.eps, old.momentum, old.affine, old.track_running_stats)
    if isinstance(layer, RankBatchNormAct):
        layer.drop, layer.act = old.drop, old.act  # type: ignore[assignment]
    layer.load_state_dict(old.state_dict())
    if old.affine:
        layer.weight, layer.bias = old.weight, old.bias  # the optimizer knows these
    return layer.train(old.training)
