"""How a grid of patches lies over a photo that was resized and trimmed before it was cut up."""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

__all__ = ["PatchLayout"]


@dataclass(frozen=True)
class PatchLayout:
    """Where the patches of a resized and trimmed photo lie in the photo. Height before width.

    photo: pixels of the photo; resized: pixels after the resize, before the trim; patch_size: side
    of a patch in resized pixels. Whole patches are counted from the top left, so up to patch_size -
    1 resized rows and columns at the bottom and right belong to none.
    """

    photo: tuple[int, int]
    resized: tuple[int, int]
    patch_size: int

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of patches."""
        return self.resized[0] // self.patch_size, self.resized[1] // self.patch_size

    @property
    def trimmed(self) -> tuple[int, int]:
        """Resized pixels that the patches cover."""
        return self.grid[0] * self.patch_size, self.grid[1] * self.patch_size

    @property
    def covered(self) -> tuple[int, int]:
        """Rows and columns of the photo whose pixel centres lie in a patch."""
        rows, columns = self._patches()
        return int((rows < self.grid[0]).sum()), int((columns < self.grid[1]).sum())

    def at(self, photo: tuple[int, int]) -> "PatchLayout":
        """The same patches over the photo scaled to another size."""
        return replace(self, photo=photo)

    def patch_at(self, y: float, x: float) -> int:
        """Number, in reading order, of the patch under a point of the photo, or of the nearest.

        y, x: in pixels of the photo from its top left corner. Raises `ValueError` outside it.
        """
        if not (0 <= y < self.photo[0] and 0 <= x < self.photo[1]):
            raise ValueError(
                f"the point {x:.10g},{y:.10g} lies outside {self.photo[1]} x {self.photo[0]} pixels"
            )
        row, column = (
            min(int(at * side / n) // self.patch_size, count - 1)
            for at, n, side, count in zip((y, x), self.photo, self.resized, self.grid, strict=True)
        )
        return row * self.grid[1] + column

    def enlarge(self, values: NDArray[np.generic]) -> NDArray[np.generic]:
        """Values of the patches (h, w) at the photo's size by nearest neighbour; else 0."""
        rows, columns = self._patches()
        padded = np.zeros((self.grid[0] + 1, self.grid[1] + 1), values.dtype)
        padded[:-1, :-1] = values
        return padded[:, columns][rows]

    def _patches(self) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """For each row and column of the photo its patch; one past the last for those outside."""
        found = [
            np.minimum(((np.arange(n) + 0.5) * side / n // self.patch_size).astype(np.intp), count)
            for n, side, count in zip(self.photo, self.resized, self.grid, strict=True)
        ]
        return found[0], found[1]
