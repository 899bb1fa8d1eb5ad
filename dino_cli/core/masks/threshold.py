"""Masks that keep a share of the attention, as the original's."""

import torch
from torch import Tensor

__all__ = ["threshold_mass"]


def threshold_mass(attention: Tensor, share: float) -> Tensor:
    """Masks of the patches that hold `share` of each head's attention mass.

    attention: (..., h, w), non-negative. Returns bool, same shape: the smallest set of patches with
    that share, by the reference's rule: patches are sorted ascending, and one is kept when the
    cumulative share up to and including it exceeds 1 - share (paper, figure 3). Raises `ValueError`
    unless 0 < share ≤ 1.
    """
    if not 0 < share <= 1:
        raise ValueError(f"the share of attention to keep must be in (0, 1], not {share}")
    flat = attention.flatten(-2)
    values, order = flat.sort(dim=-1)
    values = values / values.sum(dim=-1, keepdim=True)
    kept = values.cumsum(dim=-1) > 1 - share
    mask = torch.zeros_like(kept).scatter(-1, order, kept)
    return mask.reshape(attention.shape)
