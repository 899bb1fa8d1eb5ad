"""Whitening of descriptors, learned on other images (paper, §4.2.1, copy detection).

M images, D features.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Moments", "Whitening"]

SMALLEST = 1e-5  # eigenvalues are at least that share of the largest


@dataclass(frozen=True)
class Whitening:
    """mean: (D,); matrix: (D, D), principal axes as rows, the strongest first, each divided by the
    root of its eigenvalue. Both float64."""

    mean: Tensor
    matrix: Tensor

    def apply(self, features: Tensor) -> Tensor:
        """(M, D) → float64 (M, D)."""
        return (features.double() - self.mean) @ self.matrix.T


class Moments:
    """Mean and second moments of features that come in batches; the memory is that of (D, D).

    The covariance is not centred, although the mean is subtracted where the whitening is applied:
    so does the original, and its figures depend on it.
    """

    def __init__(self) -> None:
        self.count = 0
        self._sum, self._products = torch.zeros(()), torch.zeros(())

    def add(self, features: Tensor) -> None:
        """(M, D), more features."""
        x = features.double()
        self.count += len(x)
        self._sum = self._sum + x.sum(dim=0)
        self._products = self._products + x.T @ x

    @property
    def mean(self) -> Tensor:
        return self._sum / self.count

    @property
    def covariance(self) -> Tensor:
        """(D, D) mean of the products, of features that are not centred."""
        return self._products / self.count

    def whitening(self) -> Whitening:
        """Raises `ZeroDivisionError` without features."""
        values, axes = torch.linalg.eigh(self.covariance)
        values = values.clamp(min=SMALLEST * float(values[-1]))
        return Whitening(self.mean, (axes / values.sqrt()).T.flip(0))
