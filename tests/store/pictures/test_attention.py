"""Objects of a mask as numbers in a picture, and in the colours of an overlay."""

import numpy as np

from dino_cli.core.masks.layout import PatchLayout
from dino_cli.store.pictures.attention import (
    HeadTile,
    MaskPicture,
    Style,
    attention_pictures,
    fitted_masks,
)
from dino_cli.store.pictures.figures import part_colour

STYLE = Style(instances=True)


def _pictures(view, layout, mask, certainty):
    shown = [MaskPicture("seeded", mask=mask, certainty=certainty)]
    fitted = fitted_masks(view, layout, shown, STYLE)
    tiles = [HeadTile("mean", np.ones(mask.shape, np.float32), mask)]
    return attention_pictures(view, layout, shown, fitted, tiles, STYLE, None)


def test_a_picture_of_instances_has_the_surest_that_eight_bits_can_tell():
    mask = np.zeros((40, 40), bool)
    mask[::2, ::2] = True  # 400 parts, the first ones in reading order the surest
    certainty = np.linspace(1, 0, 1600, dtype=np.float32).reshape(40, 40)
    layout = PatchLayout((80, 80), (80, 80), 2)
    view = np.zeros((80, 80, 3), np.uint8)
    labels = _pictures(view, layout, mask, certainty)["instances_seeded"]
    shown = labels[::2, ::2][mask]
    assert shown[:255].tolist() == [*range(1, 256)]
    assert not shown[255:].any()


def test_objects_keep_their_colours_on_a_view_that_is_smaller_than_the_photo():
    mask = np.zeros((3, 9), bool)
    mask[1, [1, 4, 7]] = True
    certainty = np.linspace(1, 0, 27, dtype=np.float32).reshape(3, 9)
    layout = PatchLayout((200, 600), (24, 72), 8)
    view = np.full((60, 180, 3), 90, np.uint8)
    over = _pictures(view, layout, mask, certainty)["overlay_seeded"]
    for number, x in enumerate((1, 4, 7), 1):
        colours = over[15:45, 20 * x - 8 : 20 * x + 28].reshape(-1, 3)
        near = [
            (np.abs(colours.astype(int) - part_colour(n)).max(-1) < 40).sum() for n in (1, 2, 3)
        ]
        assert np.argmax(near) == number - 1
        assert sorted(near)[:2] == [0, 0]
