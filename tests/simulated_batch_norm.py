"""The five kernels of torch's `SyncBatchNorm`, which CPUs do not have, in plain torch."""

import torch
from torch import Tensor


def _channels(values: Tensor) -> tuple[list[int], list[int]]:
    return [0, *range(2, values.ndim)], [1, -1, *[1] * (values.ndim - 2)]


def batch_norm_stats(x: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    variance, mean = torch.var_mean(x.float(), dim=_channels(x)[0], correction=0)
    return mean, (variance + eps).rsqrt()


def batch_norm_gather_stats_with_counts(
    x: Tensor, means: Tensor, inverses: Tensor, running_mean: Tensor | None,
    running_var: Tensor | None, momentum: float, eps: float, counts: Tensor,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    total, counts = counts.sum(), counts.view(-1, 1)
    mean = (means * counts).sum(0) / total
    squares = inverses.pow(-2) - eps + (means - mean).square()
    variance = (squares * counts).sum(0) / total
    if running_mean is not None and running_var is not None:
        running_mean.lerp_(mean, momentum)
        running_var.lerp_(variance * total / (total - 1), momentum)
    return mean, (variance + eps).rsqrt()


def batch_norm_elemt(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, mean: Tensor, inverse: Tensor, eps: float
) -> Tensor:
    shape = _channels(x)[1]
    y = (x - mean.view(shape)) * inverse.view(shape)
    y = y if weight is None else y * weight.view(shape)
    return (y if bias is None else y + bias.view(shape)).to(x.dtype)


def batch_norm_backward_reduce(
    gradient: Tensor, x: Tensor, mean: Tensor, inverse: Tensor, weight: Tensor | None, *_: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    axes, shape = _channels(x)
    total = gradient.sum(axes)
    along = (gradient * (x - mean.view(shape))).sum(axes)
    return total, along, along * inverse, total.clone()


def batch_norm_backward_elemt(
    gradient: Tensor, x: Tensor, mean: Tensor, inverse: Tensor, weight: Tensor | None,
    total: Tensor, along: Tensor, counts: Tensor,
) -> Tensor:  # fmt: skip
    shape = _channels(x)[1]
    n = counts.sum()
    scale = inverse if weight is None else inverse * weight
    slope = along * inverse.square() / n
    centred = gradient - (total / n).view(shape)
    result = (centred - (x - mean.view(shape)) * slope.view(shape)) * scale.view(shape)
    return result.to(x.dtype)


KERNELS = (
    batch_norm_stats, batch_norm_gather_stats_with_counts, batch_norm_elemt,
    batch_norm_backward_reduce, batch_norm_backward_elemt,
)  # fmt: skip
