"""Features spread evenly: the Kozachenko-Leonenko regulariser."""

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["koleo_loss"]

TINY = 1e-8  # of distances, so that twins have a logarithm


def koleo_loss(features: Tensor, *, views: int) -> Tensor:
    """Minus the mean logarithm of the distance to the nearest other image, float32 scalar.

    Summed over views; images are compared within a view, as unit vectors. It pushes each feature
    away from its nearest neighbour, an estimate of the features' entropy, and so keeps their rank
    up. Sablayrolles et al. 2019, "Spreading vectors for similarity search", equation 2; on DINO's
    class tokens since Oquab et al. 2023, "DINOv2", section 4.

    features: (views · B, D), view-major, B ≥ 2.
    """
    total = features.new_zeros((), dtype=torch.float32)
    for view in features.float().chunk(views):
        unit = F.normalize(view, dim=-1, eps=TINY)
        with torch.no_grad():
            nearest = (unit @ unit.T).fill_diagonal_(-2).argmax(dim=1)
        total = total - ((unit - unit[nearest]).norm(dim=1) + TINY).log().mean()
    return total
