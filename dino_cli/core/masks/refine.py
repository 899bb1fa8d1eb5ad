"""Fit a mask of patches to the edges of the photo: the colour guided filter (He et al. 2013)."""

import cv2
import numpy as np
from numpy.typing import NDArray

__all__ = ["cut", "guided_filter", "guided_mask"]

RADIUS = 1.5  # of the filter's window, in patches
EPSILON = 1e-3  # of the filter, for colours in [0, 1]: larger is smoother
MOST_PIXELS = 1_000_000  # filter at most that many; larger photos are filtered smaller


def guided_mask(mask: NDArray[np.bool_], photo: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Enlarge a mask of patches to the photo's size so that it follows the photo's edges.

    mask: bool (h, w), one entry per patch; photo: uint8 (H, W, 3), exactly the part of the photo
    that the patches cover. Returns how much each pixel belongs to the object, float32, about 0 to
    1, of the photo's size or of a megapixel if that is smaller; `cut` makes the mask. The mask is
    enlarged bilinearly and filtered with a window of 1.5 patches on either side.
    """
    height, width = photo.shape[:2]
    shrink = min(1.0, (MOST_PIXELS / (height * width)) ** 0.5)
    size = (max(1, round(width * shrink)), max(1, round(height * shrink)))
    guide = photo if shrink == 1 else cv2.resize(photo, size, interpolation=cv2.INTER_AREA)
    soft = cv2.resize(mask.astype(np.float32), size, interpolation=cv2.INTER_LINEAR)
    radius = (
        max(1, round(RADIUS * size[1] / mask.shape[0])),
        max(1, round(RADIUS * size[0] / mask.shape[1])),
    )
    return guided_filter(soft, guide.astype(np.float32) / np.float32(255), radius, EPSILON)


def cut(soft: NDArray[np.float32], size: tuple[int, int]) -> NDArray[np.bool_]:
    """What belongs to the object by more than one half, enlarged bilinearly to `size` (H, W)."""
    if soft.shape != size:
        soft = np.asarray(cv2.resize(soft, size[::-1], interpolation=cv2.INTER_LINEAR), np.float32)
    return soft > 0.5


def guided_filter(
    image: NDArray[np.float32],
    guide: NDArray[np.float32],
    radius: tuple[int, int],
    epsilon: float,
) -> NDArray[np.float32]:
    """In each window the linear function of the guide's colours that fits the image best, averaged.

    image: (H, W); guide: (H, W, 3) in [0, 1]; radius: rows and columns on either side. Borders are
    mirrored. (Equations 19-21 of He, Sun and Tang, Guided Image Filtering.)
    """
    window = (2 * radius[1] + 1, 2 * radius[0] + 1)

    def mean(values: NDArray[np.float32]) -> NDArray[np.float32]:
        return np.asarray(cv2.blur(values, window, borderType=cv2.BORDER_REFLECT))

    # Colours around their overall mean, so that E[xy] - E[x]E[y] keeps its digits in float32
    guide = guide - guide.mean(axis=(0, 1), keepdims=True, dtype=np.float32)
    r, g, b = cv2.split(guide)
    mr, mg, mb = cv2.split(mean(guide))
    mi = mean(image)
    cr, cg, cb = cv2.split(mean(guide * image[:, :, None]))
    cr, cg, cb = cr - mr * mi, cg - mg * mi, cb - mb * mi
    rr, rg, rb = cv2.split(mean(cv2.merge([r * r, r * g, r * b])))
    gg, gb, bb = cv2.split(mean(cv2.merge([g * g, g * b, b * b])))
    rr, gg, bb = rr - mr * mr + epsilon, gg - mg * mg + epsilon, bb - mb * mb + epsilon
    rg, rb, gb = rg - mr * mg, rb - mr * mb, gb - mg * mb
    # The inverse of the symmetric 3 × 3 covariance, by cofactors
    irr, irg, irb = gg * bb - gb * gb, rb * gb - rg * bb, rg * gb - rb * gg
    igg, igb, ibb = rr * bb - rb * rb, rb * rg - rr * gb, rr * gg - rg * rg
    determinant = rr * irr + rg * irg + rb * irb
    ar = (irr * cr + irg * cg + irb * cb) / determinant
    ag = (irg * cr + igg * cg + igb * cb) / determinant
    ab = (irb * cr + igb * cg + ibb * cb) / determinant
    offset = mi - ar * mr - ag * mg - ab * mb
    slopes = cv2.split(mean(cv2.merge([ar, ag, ab])))
    return np.asarray(slopes[0] * r + slopes[1] * g + slopes[2] * b + mean(offset), np.float32)
