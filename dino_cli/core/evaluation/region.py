"""How well a mask of an object fits the true one: region J and contour F of DAVIS.

Perazzi et al., A Benchmark Dataset and Evaluation Methodology for Video Object Segmentation, 2016;
statistics over time as in the DAVIS-2017 challenge.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from dino_cli.core.evaluation.overlaps import bounding_box

__all__ = ["Statistics", "boundary", "contour_accuracy", "region_similarity", "statistics"]

TOLERANCE = 0.008  # of the contours' distance, as a share of the image's diagonal
BINS = 4

Mask = NDArray[np.bool_]


def region_similarity(truth: Mask, predicted: Mask, void: Mask | None = None) -> float:
    """J: intersection over union of two masks (H, W); 1 when both are empty.

    void: pixels that do not count.
    """
    both, either = truth & predicted, truth | predicted
    if void is not None:
        both, either = both & ~void, either & ~void
    union = np.count_nonzero(either)
    return np.count_nonzero(both) / union if union else 1.0


def contour_accuracy(
    truth: Mask, predicted: Mask, void: Mask | None = None, tolerance: float = TOLERANCE
) -> float:
    """F: harmonic mean of how much of each contour lies near the other one.

    Near is within a disk whose radius is `tolerance` times the diagonal, rounded up, or `tolerance`
    pixels from 1 on. Two masks without contours fit (1), with one of them they do not (0).
    """
    if void is not None:
        truth, predicted = truth & ~void, predicted & ~void
    radius = tolerance if tolerance >= 1 else math.ceil(tolerance * math.hypot(*truth.shape))
    ours, theirs = boundary(predicted), boundary(truth)
    if not ours.any() or not theirs.any():
        return float(ours.any() == theirs.any())
    # Only pixels of the contours are looked up, so what lies outside their box is not computed.
    top, left, bottom, right = bounding_box(ours | theirs)
    ours, theirs = ours[top:bottom, left:right], theirs[top:bottom, left:right]
    disk = _disk(int(radius))
    precision = np.count_nonzero(ours & _dilated(theirs, disk)) / np.count_nonzero(ours)
    recall = np.count_nonzero(theirs & _dilated(ours, disk)) / np.count_nonzero(theirs)
    if precision + recall == 0:
        return 0.0
    return 2 * precision * recall / (precision + recall)


def boundary(mask: Mask) -> Mask:
    """Pixels that differ from the one to the right, below, or below to the right; (H, W).

    In the last row only the one to the right counts, in the last column the one below; the last
    pixel is none.
    """
    edge = np.zeros_like(mask)
    edge[:, :-1] |= mask[:, :-1] ^ mask[:, 1:]
    edge[:-1] |= mask[:-1] ^ mask[1:]
    edge[:-1, :-1] |= mask[:-1, :-1] ^ mask[1:, 1:]
    return edge


@dataclass(frozen=True)
class Statistics:
    """Of one measure over a video's frames. mean; recall: the share of frames above one half;
    decay: how much the last quarter lies below the first."""

    mean: float
    recall: float
    decay: float


def statistics(values: Sequence[float]) -> Statistics:
    """Of a measure in each frame, in order; the quarters share their border frames.

    Raises `ValueError` without a value.
    """
    if not len(values):
        raise ValueError("no frame was measured")
    v = np.asarray(values, dtype=np.float64)
    # Matlab's rounding, halves up, of borders from 1 to the number of frames
    borders = np.round(np.linspace(1, len(v), BINS + 1) + 1e-10).astype(int) - 1
    first, last = v[: borders[1] + 1], v[borders[-2] :]
    return Statistics(float(v.mean()), float((v > 0.5).mean()), float(first.mean() - last.mean()))


def _disk(radius: int) -> NDArray[np.uint8]:
    y, x = np.ogrid[-radius : radius + 1, -radius : radius + 1]
    return np.asarray(x * x + y * y <= radius * radius, np.uint8)


def _dilated(mask: Mask, disk: NDArray[np.uint8]) -> Mask:
    return np.asarray(cv2.dilate(mask.astype(np.uint8), disk), np.bool_)
