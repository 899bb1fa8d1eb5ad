"""Photos are read a little ahead, and wait in small numbers for others of their shape."""

from concurrent.futures import Future
from pathlib import PurePath

import numpy as np
import pytest
from small_vit import photo

from dino_cli.config.shared import Preprocessing
from dino_cli.core.masks.layout import PatchLayout
from dino_cli.data.listing.images import ImageFile
from dino_cli.tasks.photos.reading import LoadedPhoto, PhotoReader, Unfit, groups_of


def _loaded(index, shape):
    blank = np.zeros((*shape, 3), np.uint8)
    return LoadedPhoto(index, blank, blank, PatchLayout(shape, shape, 8))


def test_few_photos_wait_for_others_of_their_shape():
    taken = []

    def photos():
        for index in range(20):
            taken.append(index)
            yield _loaded(index, (8, 8 + index))

    groups = groups_of(photos(), 3)
    assert len(next(groups)) == 1
    assert len(taken) == 6
    assert sorted([0, *(one.index for group in groups for one in group)]) == [*range(20)]


def test_the_largest_group_goes_first_where_none_is_full():
    widths = [8, 16, 16, 24, 32, 40]
    first, *others = groups_of([_loaded(i, (8, width)) for i, width in enumerate(widths)], 3)
    assert [one.index for one in first] == [1, 2]
    assert [len(group) for group in others] == [1] * 4


def _reader(**more):
    plain = Preprocessing(resize=16, crop=None)
    return PhotoReader(**{"preprocessing": plain, "batch_size": 1, "threads": 1, **more})


class _Pool:
    """Does at once what it is given, and counts it."""

    given = 0

    def submit(self, function, *arguments):
        self.given += 1
        done = Future()
        done.set_result(function(*arguments))
        return done


def test_no_more_is_read_ahead_than_two_files_for_each_thread(tmp_path):
    path = photo(tmp_path / "cat.png")
    pool, files = _Pool(), [ImageFile(path, "", PurePath("cat.png"))] * 10
    groups = _reader(patch_size=8).groups(pool, files)
    assert next(groups)[0].index == 0
    assert pool.given == 2
    assert [group[0].index for group in groups] == [*range(1, 10)]


@pytest.mark.parametrize(("side", "fits"), [(256, True), (257, False)])
def test_the_most_patches_that_a_photo_may_have(side, fits):
    reader = _reader(patch_size=1, preprocessing=Preprocessing(resize=(256, side), crop=None))
    blank = np.zeros((20, 20, 3), np.uint8)
    if fits:
        assert reader.photo(0, blank).layout.grid == (256, 256)
    else:
        with pytest.raises(Unfit, match="257 x 256 pixels after resizing are too many"):
            reader.photo(0, blank)
