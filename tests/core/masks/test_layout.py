import numpy as np
import pytest

from dino_cli.core.masks.layout import PatchLayout


@pytest.mark.parametrize(
    ("photo", "resized", "patch"),
    [
        ((33, 50), (33, 50), 8),  # one row and two columns of pixels trimmed
        ((100, 70), (45, 32), 16),  # reduced: 13 rows trimmed
        ((5, 7), (40, 56), 8),  # enlarged
        ((1, 1), (17, 31), 16),
        ((64, 48), (32, 32), 8),  # stretched
    ],
)
def test_each_pixel_takes_the_patch_below_its_centre(photo, resized, patch):
    layout = PatchLayout(photo, resized, patch)
    h, w = layout.grid
    assert (h, w) == (resized[0] // patch, resized[1] // patch)
    assert layout.trimmed == (h * patch, w * patch)
    values = np.arange(1, h * w + 1).reshape(h, w)
    large = layout.enlarge(values)
    assert large.shape == photo
    for y in range(photo[0]):
        for x in range(photo[1]):
            row = int((y + 0.5) * resized[0] / photo[0] / patch)
            column = int((x + 0.5) * resized[1] / photo[1] / patch)
            inside = row < h and column < w
            assert large[y, x] == (values[row, column] if inside else 0)
    rows, columns = layout.covered
    assert np.array_equal(
        large > 0,
        np.pad(np.ones((rows, columns), bool), ((0, photo[0] - rows), (0, photo[1] - columns))),
    )


def test_at_scales_the_photo_not_the_patches():
    layout = PatchLayout((100, 70), (45, 32), 16).at((10, 7))
    assert layout.grid == (2, 2)
    assert layout.enlarge(np.ones((2, 2), np.uint8)).shape == (10, 7)
    assert layout.covered == (7, 7)


def test_patch_at_a_point_is_the_one_that_covers_its_pixel():
    layout = PatchLayout((50, 70), (47, 61), 8)
    numbers = np.arange(5 * 7, dtype=np.int64).reshape(5, 7)
    painted = layout.enlarge(numbers)
    rows, columns = layout.covered
    for y in range(rows):
        for x in range(columns):
            assert layout.patch_at(y + 0.5, x + 0.5) == painted[y, x]
    assert layout.patch_at(49.9, 69.9) == 34  # trimmed: the nearest
    for y, x in [(50, 0), (0, 70), (-1, 3), (3, -1)]:
        with pytest.raises(ValueError, match="outside 70 x 50"):
            layout.patch_at(y, x)
