"""Features as places on a plane, by their two principal components."""

import numpy as np
import torch
from numpy.typing import NDArray

from dino_cli.core.evaluation.neighbors import Rows, normalized_block

__all__ = ["principal_plane"]

BLOCK = 8192


def principal_plane(features: Rows) -> NDArray[np.float32]:
    """The two principal components of unit vectors: (N, D) → float32 (N, 2).

    Read in blocks three times, so memory does not grow with N but for the result. The sign of a
    component is such that its largest weight is positive.
    """
    rows, width = features.shape
    starts = range(0, rows, BLOCK)
    mean = torch.zeros(width, dtype=torch.float64)
    for start in starts:
        mean += normalized_block(features, start, BLOCK, "cpu").double().sum(dim=0)
    mean /= rows
    spread = torch.zeros(width, width, dtype=torch.float64)
    for start in starts:
        centred = normalized_block(features, start, BLOCK, "cpu").double() - mean
        spread += centred.T @ centred
    axes = torch.linalg.eigh(spread).eigenvectors[:, -2:].flip(1)
    largest = axes.gather(0, axes.abs().argmax(dim=0, keepdim=True))
    axes = axes * largest.sign()
    places = np.zeros((rows, 2), np.float32)
    for start in starts:
        centred = normalized_block(features, start, BLOCK, "cpu").double() - mean
        places[start : start + BLOCK, : axes.shape[1]] = (centred @ axes).numpy()
    return places
