"""Features as places on a plane, by their two principal components."""

import numpy as np
from numpy.typing import NDArray

from dino_cli.core.evaluation.neighbors import Rows, normalized_block
from dino_cli.core.pca.moments import Moments

__all__ = ["principal_plane"]

BLOCK = 8192


def principal_plane(features: Rows) -> NDArray[np.float32]:
    """The two principal components of unit vectors: (N, D) → float32 (N, 2).

    Read in blocks twice, so memory does not grow with N but for the result. The sign of a
    component is such that its largest weight is positive.
    """
    blocks = range(0, features.shape[0], BLOCK)
    moments = Moments()
    for start in blocks:
        moments.add(normalized_block(features, start, BLOCK, "cpu"))
    mean, axes = moments.mean, moments.components(2)[0].T
    places = np.zeros((features.shape[0], 2), np.float32)
    for start in blocks:
        unit = normalized_block(features, start, BLOCK, "cpu").double()
        places[start : start + BLOCK] = ((unit - mean) @ axes).numpy()
    return places
