"""Objects of their own: the connected parts of a mask, and how sure each of them is."""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

__all__ = ["Parts", "connected_parts"]


@dataclass(frozen=True)
class Parts:
    """Parts of a mask, the surest first.

    labels: int32 (H, W), the number of each pixel's part from 1; 0 is outside. scores: of each
    part, 0 to 1.
    """

    labels: NDArray[np.int32]
    scores: tuple[float, ...]

    def mask(self, number: int) -> NDArray[np.bool_]:
        """Where part `number` (from 1) is, bool (H, W)."""
        return np.asarray(self.labels == number)


def connected_parts(
    mask: NDArray[np.bool_], certainty: NDArray[np.float32], *, smallest: float
) -> Parts:
    """The 8-connected parts of a mask (H, W) with at least `smallest` pixels, or the largest one.

    certainty: of the pixels, 0 to 1, at any size of the same shape; a part's score is its mean over
    the part, rounded to 4 digits.
    """
    count, labels, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8))
    if count == 1:
        return Parts(np.zeros(mask.shape, np.int32), ())
    areas = stats[1:, cv2.CC_STAT_AREA]
    kept = np.flatnonzero(areas >= min(smallest, areas.max())) + 1
    size = (mask.shape[1], mask.shape[0])
    large = cv2.resize(certainty.astype(np.float32), size, interpolation=cv2.INTER_NEAREST)
    total = np.bincount(labels.ravel(), weights=large.ravel(), minlength=count)
    scores = total[kept] / areas[kept - 1]
    order = np.argsort(-scores, kind="stable")
    numbers = np.zeros(count, np.int32)
    numbers[kept[order]] = np.arange(1, len(kept) + 1)
    return Parts(numbers[labels], tuple(round(float(s), 4) for s in scores[order]))
