"""Pictures say what the numbers say; looked at by eye for the rest."""

import io

import cv2
import matplotlib as mpl
import numpy as np
import pytest
from PIL import Image

from dino_cli.core.masks.layout import PatchLayout
from dino_cli.store.pictures.figures import (
    LONGEST_VIEW,
    OUTLINE,
    OUTSIDE,
    Tile,
    heat_map,
    heat_tile,
    overlay,
    overlay_of_parts,
    part_colour,
    png,
    point_marked,
    side_by_side,
    tile_size,
    view_of,
)

LAYOUT = PatchLayout((35, 50), (35, 50), 8)  # 4 × 6 patches; 3 rows and 2 columns trimmed


def _brightness(picture):
    return np.asarray(picture.convert("RGB")).astype(int).sum(-1)


def test_heat_map_is_flat_per_patch_and_ordered_as_the_attention():
    attention = np.random.default_rng(0).random((4, 6)).astype(np.float32)
    seen = _brightness(heat_map(attention, LAYOUT))
    assert seen.shape == (35, 50)
    blocks = seen[:32, :48].reshape(4, 8, 6, 8)
    assert (blocks == blocks[:, :1, :, :1]).all()
    levels = blocks[:, 0, :, 0].ravel()[attention.ravel().argsort()]
    assert (np.diff(levels) >= 0).all()
    assert levels[0] < 20
    assert levels[-1] > 550
    assert (seen[32:] == levels[0]).all()
    assert (seen[:, 48:] == levels[0]).all()


@pytest.mark.parametrize("palette", ["inferno", "magma", "plasma", "viridis", "cividis", "turbo"])
def test_palettes_are_those_of_matplotlib(palette):
    ramp = np.arange(256, dtype=np.float32).reshape(1, 256)
    layout = PatchLayout((1, 256), (1, 256), 1)
    shown = np.asarray(heat_map(ramp, layout, palette).convert("RGB")).astype(int)
    expected = mpl.colormaps[palette](np.arange(256), bytes=True)[:, :3].astype(int)
    assert np.abs(shown[0, :250] - expected[:250]).max() <= 12  # the last ones are one colour
    assert np.abs(shown[0, [0, -1]] - expected[[0, -1]]).max() <= 1


def test_a_ring_is_drawn_on_a_copy_around_its_point():
    photo = np.full((90, 160, 3), 40, np.uint8)
    marked = point_marked(photo, (20.0, 130.0), (0, 255, 0))
    assert (photo == 40).all()
    green = np.argwhere(marked[..., 1] > 150)
    assert green.mean(0) == pytest.approx([20, 130], abs=0.5)


def test_one_outlier_does_not_darken_a_heat_map():
    attention = np.full((30, 40), 0.5, np.float32)
    attention[:, :20] = 0.0
    attention[3, 3] = 1000.0
    layout = PatchLayout((30, 40), (30, 40), 1)
    seen = _brightness(heat_map(attention, layout))
    assert seen[10, 30] > 550
    assert seen[10, 10] < 20


@pytest.mark.parametrize("values", [np.full((4, 6), 0.25), np.eye(4, 6)])
def test_heat_map_of_even_and_of_sparse_attention(values):
    seen = _brightness(heat_map(values.astype(np.float32), LAYOUT))
    bright = seen[:32:8, :48:8] > 550
    assert np.array_equal(bright, values == 1)


def test_overlay_keeps_the_object_and_dims_the_rest():
    photo = np.random.default_rng(0).integers(0, 256, (80, 100, 3)).astype(np.uint8)
    mask = np.zeros((80, 100), bool)
    mask[20:60, 30:70] = True
    before = photo.copy()
    seen = overlay(photo, mask)
    assert np.array_equal(photo, before)  # the photo is not drawn upon
    assert np.array_equal(seen[25:55, 35:65], photo[25:55, 35:65])
    assert seen[:15].mean() == pytest.approx(OUTSIDE * photo[:15].mean(), rel=0.05)
    assert (seen[40, 28:33] != photo[40, 28:33]).any(-1).sum() >= 2  # the outline
    assert not np.array_equal(overlay(photo, ~mask), seen)


def test_overlay_of_nothing_has_no_outline():
    photo = np.full((20, 30, 3), 200, np.uint8)
    seen = overlay(photo, np.zeros((20, 30), bool))
    assert len(np.unique(seen.reshape(-1, 3), axis=0)) == 1


def test_view_reduces_only_large_photos():
    small = np.zeros((900, LONGEST_VIEW, 3), np.uint8)
    assert view_of(small) is small
    assert view_of(np.zeros((3200, 800, 3), np.uint8)).shape == (LONGEST_VIEW, 400, 3)
    assert view_of(np.zeros((1, 5000, 3), np.uint8)).shape == (1, LONGEST_VIEW, 3)


def _tiles(count, size, caption="head {}"):
    colours = np.random.default_rng(0).integers(60, 200, (count, 3)).astype(np.uint8)
    return [
        Tile(np.full((*size, 3), colour, np.uint8), caption.format(i), "max 0.01", i == 2)
        for i, colour in enumerate(colours)
    ]


@pytest.mark.parametrize("count", [1, 2, 8, 14])
@pytest.mark.parametrize("photo", [(300, 400), (400, 300), (20, 400), (900, 10)])
def test_grid_shows_every_tile_whole(count, photo):
    tiles = _tiles(count, tile_size(photo))
    sheet = side_by_side(tiles)
    for tile in tiles:
        shown = (sheet == tile.picture[0, 0]).all(-1).sum()
        assert shown == tile.picture[..., 0].size
    assert sheet.shape[0] * sheet.shape[1] < 2.5 * count * (tile_size(photo)[0] + 60) * max(
        tile_size(photo)[1] + 30, 140
    )


def test_grid_marks_and_names_its_tiles():
    tiles = _tiles(4, (100, 120))
    plain = [Tile(t.picture, t.caption, t.remark) for t in tiles]
    unnamed = [Tile(t.picture, "") for t in tiles]
    assert not np.array_equal(side_by_side(tiles), side_by_side(plain))
    dark = (side_by_side(plain).max(-1) < 40).sum() - (side_by_side(unnamed).max(-1) < 40).sum()
    assert dark > 100  # pixels of text


def test_heat_tile_outlines_the_mask():
    attention = np.zeros((4, 6), np.float32)
    mask = np.zeros((4, 6), bool)
    mask[1:3, 2:4] = True
    tile = heat_tile(attention, LAYOUT.enlarge(mask), LAYOUT, "head 0", False)
    assert tile.remark == "max 0"
    attention[0, 0] = 0.125
    assert heat_tile(attention, LAYOUT.enlarge(mask), LAYOUT, "", False).remark == "max 0.125"
    white = (tile.picture == 255).all(-1)
    assert white.any()
    assert not white[:8].any()
    assert white[8, 16:32].all()


@pytest.mark.parametrize("photo", [(300, 400), (700, 100), (50, 80)])
def test_tiles_have_the_aspect_of_the_photo(photo):
    height, width = tile_size(photo)
    assert width / height == pytest.approx(photo[1] / photo[0], rel=0.02)
    assert height * width == pytest.approx(320 * 240, rel=0.02)


def test_png_is_lossless():
    picture = np.random.default_rng(0).integers(0, 256, (33, 47, 3)).astype(np.uint8)
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(png(picture)))), picture)
    mask = picture[..., 0] > 128
    read = Image.open(io.BytesIO(png(mask)))
    assert read.mode == "L"
    assert np.array_equal(np.asarray(read), np.where(mask, 255, 0))
    heat = heat_map(np.random.default_rng(1).random((4, 6)).astype(np.float32), LAYOUT)
    read = Image.open(io.BytesIO(png(heat))).convert("RGB")
    assert np.array_equal(np.asarray(read), np.asarray(heat.convert("RGB")))
    decoded = cv2.imdecode(np.frombuffer(png(heat), np.uint8), cv2.IMREAD_COLOR)
    assert np.array_equal(decoded[..., ::-1], np.asarray(heat.convert("RGB")))


def _parts(size, count):
    parts = np.zeros(size, np.int32)
    for number in range(1, count + 1):  # a row of small objects side by side
        parts[size[0] // 2 :, :][:6, 8 * number : 8 * number + 6] = number
    return parts


@pytest.mark.parametrize("count", [1, 7])
def test_captions_cover_no_object_and_no_other_caption(count):
    parts = _parts((200, 300), count)
    parts[10:150, 180:290] = count + 1
    photo = np.full((200, 300, 3), 90, np.uint8)
    bare = overlay_of_parts(photo, parts, [""] * (count + 1))
    said = overlay_of_parts(photo, parts, ["0.43"] * (count + 1))
    drawn = (bare != said).any(-1)
    assert drawn.any()
    assert drawn[(parts > 0) & (parts <= count)].mean() < 0.2
    plates = [(said == part_colour(n)).all(-1) & drawn for n in range(1, count + 2)]
    areas = [int(plate.sum()) for plate in plates if plate.sum() > 100]  # not only rests of a line
    assert areas
    assert min(areas) > 0.8 * max(areas)  # none lies over another


def test_a_small_picture_has_no_captions():
    parts, photo = _parts((72, 96), 5), np.full((72, 96, 3), 90, np.uint8)
    bare = overlay_of_parts(photo, parts, [""] * 5)
    assert np.array_equal(overlay_of_parts(photo, parts, ["0.43"] * 5), bare)
    for number in range(1, 6):  # boxes end where their objects do
        drawn, inside = (
            np.argwhere((bare == part_colour(number)).all(-1)),
            np.argwhere(parts == number),
        )
        assert drawn.max(0).tolist() == inside.max(0).tolist()


def test_objects_have_boxes_and_captions_of_their_own_colours():
    """The first alone looks as a mask does; it lies on top, and no colour is met twice in a row."""
    parts = np.zeros((600, 800), np.int32)
    places = [(240, 120, 140), (300, 760, 20), (500, 240, 140)]  # no room to the right of one
    for number, (y, x, width) in enumerate(places, 1):
        parts[y : y + 80, x : x + width] = number
    parts[280:350, 200:250] = 4  # its box lies across that of the first
    photo = np.full((600, 800, 3), 90, np.uint8)
    seen = overlay_of_parts(photo, parts, ["0.91", "0.82", "0.73", "0.64"])
    assert part_colour(1) == OUTLINE == part_colour(9)
    assert len({part_colour(number) for number in range(1, 9)}) == 8
    areas = []
    for number, (y, x, width) in enumerate(places, 1):
        colour = (seen == part_colour(number)).all(-1)
        right = x + width - 1
        assert colour[[y, y, y + 79, y + 79], [x, right, x, right]].all()
        plate = np.argwhere(colour[: y - 4])  # above its object
        assert np.abs(plate.mean(0) - (y - 13, x + 10)).max() < 40
        areas.append(len(plate))
    assert min(areas) > 0.9 * max(areas)  # none is cut off
