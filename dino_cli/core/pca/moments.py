"""Mean and second moments of features that come in batches, and their principal components.

M features at a time, of D numbers.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["Moments"]


class Moments:
    """Sums of features and of their products, float64; the memory is that of (D, D)."""

    def __init__(self) -> None:
        self.count = 0
        self._sum, self._products = torch.zeros(()), torch.zeros(())

    def add(self, features: Tensor) -> None:
        """(M, D), more features; on the CPU."""
        x = features.double()
        self.count += len(x)
        self._sum = self._sum + x.sum(dim=0)
        self._products = self._products + x.T @ x

    @property
    def mean(self) -> Tensor:
        """(D,)."""
        return self._sum / self.count

    @property
    def about_zero(self) -> Tensor:
        """(D, D) mean of the products, of features that are not centred."""
        return self._products / self.count

    @property
    def covariance(self) -> Tensor:
        """(D, D), of the features around their mean."""
        return self.about_zero - torch.outer(self.mean, self.mean)

    def components(self, count: int) -> tuple[Tensor, Tensor]:
        """Directions (count, D) of largest variance first, and their shares of it (count,).

        A direction's sign is such that its largest entry is positive. Fewer than `count` directions
        with any variance are filled with zeros.
        """
        covariance = self.covariance
        whole = covariance.diagonal().sum().clamp(min=1e-300)
        values, vectors = torch.linalg.eigh(covariance)
        values, vectors = values.flip(0).clamp(min=0)[:count], vectors.flip(1).T[:count]
        # Below rounding a direction is noise, and what is shown along it would be, too.
        real = values > 1e-12 * whole
        vectors = vectors * real.unsqueeze(1)
        largest = vectors.gather(1, vectors.abs().argmax(1, keepdim=True))
        vectors = torch.where(largest < 0, -vectors, vectors)
        missing = count - len(vectors)
        return F.pad(vectors, (0, 0, 0, missing)), F.pad(values * real / whole, (0, missing))
