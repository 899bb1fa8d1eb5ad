"""Image descriptors for retrieval and copy detection (paper, §4.2.1).

B images, N patches, D features.
"""

import torch
from torch import Tensor

__all__ = ["SCALES", "cls_and_gem", "gem"]

SCALES = (1.0, 2**-0.5, 0.5)  # of an image whose descriptor is the mean over several
POWER = 4.0
FLOOR = 1e-6


def gem(tokens: Tensor, power: float = POWER) -> Tensor:
    """Generalised mean over the patches, (B, N, D) → (B, D), of values at least 1e-6."""
    return tokens.clamp(min=FLOOR).pow(power).mean(dim=1).pow(1 / power)


def cls_and_gem(tokens: Tensor, prefix: int) -> Tensor:
    """Class token, then the patches' generalised mean: (B, P + N, D) → (B, 2D). prefix: P."""
    return torch.cat([tokens[:, 0], gem(tokens[:, prefix:])], dim=1)
