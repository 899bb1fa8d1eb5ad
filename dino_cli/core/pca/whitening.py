"""Whitening of descriptors, learned on other images (paper, §4.2.1, copy detection).

M images, D features.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from dino_cli.core.pca.moments import Moments

__all__ = ["Whitening"]

SMALLEST = 1e-5  # eigenvalues are at least that share of the largest


@dataclass(frozen=True)
class Whitening:
    """mean: (D,); matrix: (D, D), principal axes as rows, the strongest first, each divided by the
    root of its eigenvalue. Both float64."""

    mean: Tensor
    matrix: Tensor

    @classmethod
    def of(cls, moments: Moments) -> "Whitening":
        """Learned on features of these moments, of which there is at least one.

        The covariance is not centred, although the mean is subtracted where it is applied: so does
        the original, and its figures depend on it.
        """
        values, axes = torch.linalg.eigh(moments.about_zero)
        values = values.clamp(min=SMALLEST * float(values[-1]))
        return cls(moments.mean, (axes / values.sqrt()).T.flip(0))

    def apply(self, features: Tensor) -> Tensor:
        """(M, D) → float64 (M, D)."""
        return (features.double() - self.mean) @ self.matrix.T
