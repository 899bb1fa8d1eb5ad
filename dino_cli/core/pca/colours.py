"""Principal components of patch features as colours, over any number of images.

Shape letters: `N` patches, `D` features. How people look at ViT features since DINOv2 (Oquab et al.
2023, figure 1): a first split into foreground and background, then the first three components of
the foreground as red, green and blue.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from dino_cli.core.pca.moments import Moments

__all__ = ["BorderSplit", "Components", "fit_border_split", "fit_components"]

LOW, HIGH = 0.01, 0.99  # quantiles of a component that become its darkest and its brightest
MOST_FOR_RANGE = 200_000  # patches that those quantiles are read from


@dataclass(frozen=True)
class Components:
    """Three directions and how far features reach along them: colours of any patch.

    mean (D,), directions (3, D), low and high (3,), shares (3,) of the variance.
    """

    mean: Tensor
    directions: Tensor
    low: Tensor
    high: Tensor
    shares: Tensor

    def colours(self, features: Tensor) -> Tensor:
        """Features (N, D) → red, green and blue in [0, 1], float32 (N, 3)."""
        span = self.high - self.low
        place = (self.project(features) - self.low) / span.clamp(min=1e-12)
        return torch.where(span > 1e-9, place.clamp(0, 1), 0.5)

    def project(self, features: Tensor) -> Tensor:
        """Features (N, D) → their coordinates (N, 3)."""
        return (features.float() - self.mean) @ self.directions.T


def fit_components(features: list[Tensor], inside: list[Tensor]) -> Components:
    """Components of the patches inside, over all images; of all patches where none is inside.

    features: of each image (N, D), any float; inside: bool (N,). Ranges are quantiles, so that
    a few odd patches do not take the colours from the rest.
    """
    if not any(bool(one.any()) for one in inside):
        inside = [torch.ones_like(one) for one in inside]
    moments = Moments()
    for values, keep in zip(features, inside, strict=True):
        moments.add(values[keep])
    directions, shares = (found.float() for found in moments.components(3))
    mean = moments.mean.float()
    blank = Components(mean, directions, torch.zeros(3), torch.ones(3), shares)
    places = torch.cat([blank.project(v[keep]) for v, keep in zip(features, inside, strict=True)])
    places = places[:: max(1, len(places) // MOST_FOR_RANGE)].sort(dim=0).values
    last = len(places) - 1
    low, high = places[round(LOW * last)], places[round(HIGH * last)]
    return Components(mean, directions, low, high, shares)


@dataclass(frozen=True)
class BorderSplit:
    """Foreground without attention: the first component of all patches, split at its mean."""

    mean: Tensor
    direction: Tensor

    def inside(self, features: Tensor) -> Tensor:
        """Features (N, D) → bool (N,)."""
        return (features.float() - self.mean) @ self.direction > 0


def fit_border_split(features: list[Tensor], grids: list[tuple[int, int]]) -> BorderSplit:
    """The foreground is the side that takes the smaller share of the images' borders.

    Things are photographed in the middle. features: (N, D) of each image, N = h · w of `grids`.
    """
    moments = Moments()
    for values in features:
        moments.add(values)
    mean, direction = moments.mean.float(), moments.components(1)[0][0].float()
    split = BorderSplit(mean, direction)
    sides = [split.inside(v).reshape(g) for v, g in zip(features, grids, strict=True)]
    edges = [torch.cat([s[0], s[-1], s[:, 0], s[:, -1]]) for s in sides]
    at_border = torch.cat(edges).float().mean()
    if at_border > torch.cat([side.flatten() for side in sides]).float().mean():
        return BorderSplit(mean, -direction)
    return split
