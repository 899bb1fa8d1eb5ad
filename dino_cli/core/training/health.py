"""What tells a healthy run from one that collapses; measured at the lines of the log only."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["Health", "effective_rank", "measure_health", "update_ratio"]


@dataclass(frozen=True, kw_only=True)
class Health:
    """What targets and features of one batch say (0-dimensional tensors; entropies in nats).

    entropy: mean entropy of a target; near ln K the teacher says nothing, near 0 with a small
        `spread` all images get the same one-hot target.
    spread: entropy of the mean target minus `entropy`: how much targets differ between images
        (the mutual information of image and prototype); below about 0.3 is collapse.
    prototypes: exp of the mean target's entropy: how many prototypes the batch shares out.
    target_kl: Kullback-Leibler divergence between the targets of an image's two global views.
    feature_std: standard deviation of the L2-normalised features over the batch, times √D: 1 when
        they spread evenly, 0 when all images have the same.
    feature_rank: effective rank of the centred features, at most 2 B - 1.
    centre_norm: length of the centre.
    """

    entropy: Tensor
    spread: Tensor
    prototypes: Tensor
    target_kl: Tensor
    feature_std: Tensor
    feature_rank: Tensor
    centre_norm: Tensor


@torch.no_grad()
def measure_health(targets: Tensor, features: Tensor, centre: Tensor) -> Health:
    """targets: (2 · B, K), features: (2 · B, D), both view-major; centre: (1, K)."""
    entropies = -torch.xlogy(targets, targets).sum(dim=-1)
    mean = targets.mean(dim=0)
    of_mean = -torch.xlogy(mean, mean).sum()
    first, second = targets.chunk(2)
    tiny = torch.finfo(targets.dtype).tiny
    divergence = torch.xlogy(first, first) - first * second.clamp_min(tiny).log()
    unit = F.normalize(features.float(), dim=-1)
    return Health(
        entropy=entropies.mean(),
        spread=of_mean - entropies.mean(),
        prototypes=of_mean.exp(),
        target_kl=divergence.sum(dim=-1).mean(),
        feature_std=unit.std(dim=0).mean() * features.shape[1] ** 0.5,
        feature_rank=effective_rank(features),
        centre_norm=centre.norm(),
    )


def effective_rank(features: Tensor) -> Tensor:
    """exp of the entropy of the normalised singular values of centred features (M, D).

    Roy and Vetterli 2007: between 1 (all on one line) and min(M - 1, D).
    """
    x = features.float() - features.float().mean(dim=0)
    if not torch.isfinite(x).all():
        return x.new_full((), float("nan"))
    try:
        singular: Tensor = torch.linalg.svdvals(x)
    except torch.linalg.LinAlgError:  # type: ignore[attr-defined]
        # It did not converge: a figure of the log is not worth the run.
        return x.new_full((), float("nan"))
    share = singular / singular.sum().clamp_min(torch.finfo(singular.dtype).tiny)
    rank: Tensor = (-torch.xlogy(share, share).sum()).exp()
    return rank


@torch.no_grad()
def update_ratio(before: list[Tensor], after: list[Tensor]) -> Tensor:
    """‖after - before‖ / ‖before‖ over all tensors.

    In healthy runs about 0.0005 to 0.003; with LARS, whose steps are shares of that length, 0.02.
    """
    moved = torch.stack(torch._foreach_norm(torch._foreach_sub(after, before))).norm()
    ratio: Tensor = moved / torch.stack(torch._foreach_norm(before)).norm()
    return ratio
