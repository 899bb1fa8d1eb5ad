"""How well masks of patches fit the objects of a label map (paper, section 4.2.2).

Shapes: M masks, O objects, `h` × `w` patches of `p` pixels a side, label maps of `H` × `W` pixels.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["VOID", "Objects", "bounding_box", "box_overlap", "centre_box", "objects_of"]

BOX = 0.6  # of each side, of a box that knows nothing of the picture
VOID = 255  # of a label map, as of VOC and DAVIS: pixels of no object that count for none


@dataclass(frozen=True)
class Objects:
    """The objects of one label map. labels: their O values, ascending; maps: bool (O, H, W)."""

    labels: list[int]
    maps: NDArray[np.bool_]

    def overlaps(self, masks: NDArray[np.bool_], patch_size: int = 1) -> NDArray[np.float64]:
        """Intersection over union of every object with every mask (M, h, w): (O, M).

        A mask covers h·p × w·p pixels from the top left; beyond them it is empty. Void pixels are
        no object's, so that a mask on them only gains in the union.
        """
        count, (rows, columns) = len(masks), masks.shape[-2:]
        height, width = rows * patch_size, columns * patch_size
        inside = self.maps[:, :height, :width]
        # Pixels of each object in each patch: masks need not be enlarged.
        cells = inside.reshape(-1, rows, patch_size, columns, patch_size).sum(axis=(2, 4))
        flat = masks.reshape(count, -1).astype(np.float64)
        shared = cells.reshape(len(cells), -1) @ flat.T
        size = self.maps.reshape(len(self.maps), -1).sum(axis=1)[:, None]
        # No object is empty, so no union is.
        overlap: NDArray[np.float64] = shared / (size + flat.sum(axis=1) * patch_size**2 - shared)
        return overlap


def objects_of(labels: NDArray[np.integer]) -> Objects:
    """The objects of a label map (H, W): every value but 0, the background, and 255, void."""
    values = [int(v) for v in np.unique(labels) if v not in (0, VOID)]
    maps = np.stack([labels == v for v in values]) if values else np.zeros((0, *labels.shape), bool)
    return Objects(values, maps)


def centre_box(height: int, width: int) -> NDArray[np.bool_]:
    """A centred box of 60 % of the height and of the width: bool (height, width)."""
    box = np.zeros((height, width), bool)
    top, left = round(height * (1 - BOX) / 2), round(width * (1 - BOX) / 2)
    box[top : height - top, left : width - left] = True
    return box


def bounding_box(mask: NDArray[np.bool_]) -> tuple[int, int, int, int]:
    """(top, left, bottom, right) of a mask (H, W), the last two beyond it; zeros if it is empty."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not len(rows):
        return 0, 0, 0, 0
    return int(rows[0]), int(columns[0]), int(rows[-1]) + 1, int(columns[-1]) + 1


def box_overlap(a: tuple[int, int, int, int], b: tuple[int, int, int, int]) -> float:
    """Intersection over union of two boxes (top, left, bottom, right); 0 if both are empty."""
    height = max(0, min(a[2], b[2]) - max(a[0], b[0]))
    width = max(0, min(a[3], b[3]) - max(a[1], b[1]))
    areas = sum((box[2] - box[0]) * (box[3] - box[1]) for box in (a, b))
    union = areas - height * width
    return height * width / union if union else 0.0
