"""Batches of views: what is read for an item, which draws it gets, and what stands in for it."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from pil_views import SPEC

from dino_cli.config.shared import Preprocessing
from dino_cli.data.listing.image_list import ImageFile
from dino_cli.data.listing.images import find_images
from dino_cli.data.views.batches import BatchPlan, ViewSchedule, crop_batches, normalize_views
from dino_cli.data.views.draws import ViewSpec, draw_view, epoch_order, uniforms
from dino_cli.data.views.render import render_view

LARGE = ViewSpec(**{**vars(SPEC), "size": 16})
SMALL = ViewSpec(**{**vars(LARGE), "size": 8})
SCHEDULE = ViewSchedule(globals_=(LARGE, LARGE), locals_=(SMALL,) * 3)


@pytest.fixture
def files(tmp_path: Path) -> list[ImageFile]:
    """Five pictures of noise, each of its own size."""
    random = np.random.default_rng(0)
    for i in range(5):
        pixels = random.integers(0, 256, (20 + i, 30 - i, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{i}.png")
    return list(find_images([str(tmp_path)]))


def batches(files, *, epochs=1, batch=5, seed=0, **options):
    plan = BatchPlan(images=len(files), epochs=epochs, batch=batch, seed=seed)
    return list(
        crop_batches(files, SCHEDULE, plan, start_step=0, end_step=plan.steps, workers=0, **options)
    )


def test_views_are_those_of_the_draws_of_seed_epoch_and_image(files):
    made = batches(files, epochs=2, seed=3)
    assert len(made) == 2
    for epoch, batch in enumerate(made):
        large, small = batch.groups
        for row, image in enumerate(epoch_order(5, 3, epoch).tolist()):
            pixels = np.array(Image.open(files[image].path))
            u = uniforms(3, epoch, image, 5)
            for v, (spec, view) in enumerate(
                [*((LARGE, one) for one in large[row]), *((SMALL, one) for one in small[row])]
            ):
                expected = render_view(pixels, draw_view(spec, u[v], *pixels.shape[:2]))
                np.testing.assert_array_equal(view.numpy(), expected)


def test_the_next_readable_picture_stands_in_after_the_last_the_first(files):
    whole = batches(files)[0].groups
    files[4].path.write_bytes(b"")
    (batch,) = batches(files)
    assert batch.unreadable == [(str(files[4].path), "empty file")]
    last = epoch_order(5, 0, 0).tolist().index(4)
    first = np.array(Image.open(files[0].path))
    draw = draw_view(LARGE, uniforms(0, 0, 4, 5)[0], *first.shape[:2])
    np.testing.assert_array_equal(batch.groups[0][last, 0].numpy(), render_view(first, draw))
    others = [row for row in range(5) if row != last]
    assert torch.equal(batch.groups[1][others], whole[1][others])
    for file in files:
        file.path.write_bytes(b"")
    (nothing,) = batches(files)
    assert nothing.empty
    assert len(nothing.unreadable) == 25


@pytest.mark.parametrize("photos", [False, True])
def test_pictures_are_turned_as_they_say_unless_told_not_to(tmp_path, photos):
    pixels = np.random.default_rng(0).integers(0, 256, (20, 40, 3), dtype=np.uint8)
    turned = Image.Exif()
    turned[0x0112] = 6  # a quarter to the right
    Image.fromarray(pixels).save(tmp_path / "a.png", exif=turned)
    files = list(find_images([str(tmp_path)]))

    def made(exif):
        (batch,) = batches(files, batch=1, exif=exif, photos=photos)
        return batch.pixels if photos else batch.groups[0]

    Image.fromarray(np.rot90(pixels, -1)).save(tmp_path / "a.png")
    upright = made(True)
    Image.fromarray(pixels).save(tmp_path / "a.png", exif=turned)
    assert torch.equal(made(True), upright)
    assert not torch.equal(made(False), upright)


def test_normalised_views_are_view_major():
    views = torch.randint(0, 256, (3, 2, 4, 5, 3), dtype=torch.uint8)
    p = Preprocessing()
    found = normalize_views(views, p, torch.device("cpu"))
    assert found.shape == (2 * 3, 3, 4, 5)
    for v in range(2):
        for b in range(3):
            scaled = (views[b, v].float() / 255 - torch.tensor(p.mean)) / torch.tensor(p.std)
            torch.testing.assert_close(found[3 * v + b], scaled.permute(2, 0, 1))
