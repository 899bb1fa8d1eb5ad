import numpy as np
import pytest

from dino_cli.core.layout import PatchLayout


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
