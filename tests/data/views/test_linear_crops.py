"""Random crops of the linear classifier: as torchvision's, and the same whoever makes them."""

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as TF

from dino_cli.data.listing.images import find_images
from dino_cli.data.views.draws import draw_view, epoch_order, uniforms
from dino_cli.data.views.linear_crops import augmented_batches, crop_spec, render_crop


def make_photos(folder, count=9):
    random = np.random.default_rng(0)
    for i in range(count):
        pixels = random.integers(0, 256, (40 + i, 60 - i, 3), dtype=np.uint8)
        (folder / f"{i % 3}").mkdir(exist_ok=True)
        Image.fromarray(pixels).save(folder / f"{i % 3}" / f"{i}.png")
    return find_images([str(folder)])


@pytest.mark.parametrize("size", [32, (24, 40)])
def test_a_crop_is_torchvisions(size):
    """Height before width."""
    pixels = np.random.default_rng(1).integers(0, 256, (50, 70, 3), dtype=np.uint8)
    image = Image.fromarray(pixels)
    flips = set()
    for i in range(8):
        draw = draw_view(crop_spec(size), uniforms(0, 0, i, 1)[0], 50, 70)
        box = (draw.top, draw.left, draw.height, draw.width)
        expected = TF.resized_crop(image, *box, list(draw.shape), InterpolationMode.BILINEAR)
        expected = TF.hflip(expected) if draw.flip else expected
        np.testing.assert_array_equal(render_crop(image, draw), np.asarray(expected))
        assert not any((draw.jitter, draw.grayscale, draw.solarize, draw.sigma))
        assert draw.shape == ((32, 32) if size == 32 else size)
        flips.add(draw.flip)
    assert flips == {True, False}


def test_crops_have_the_areas_of_random_resized_crop():
    shares = []
    for i in range(400):
        draw = draw_view(crop_spec(32), uniforms(5, 0, i, 1)[0], 300, 300)
        shares.append(draw.height * draw.width / 300**2)
    assert min(shares) > 0.07
    assert 0.4 < float(np.mean(shares)) < 0.6


def test_batches_depend_on_seed_and_epoch_alone(tmp_path):
    files = make_photos(tmp_path)

    def batches(epoch, workers=0, seed=0):
        return list(
            augmented_batches(files, size=16, batch_size=2, seed=seed, epoch=epoch, workers=workers)
        )

    one, two = batches(3), batches(3, workers=2)
    assert [len(batch.indices) for batch in one] == [2, 2, 2, 2, 1]  # the rest is not dropped
    for a, b in zip(one, two, strict=True):
        assert a.indices == b.indices
        assert torch.equal(a.images, b.images)
    order = [i for batch in one for i in batch.indices]
    assert order == epoch_order(9, 0, 3).tolist()
    assert sorted(order) == list(range(9))
    crops = dict(zip(order, torch.cat([batch.images for batch in one]), strict=True))
    for others in (batches(4), batches(3, seed=1)):
        assert order != [i for batch in others for i in batch.indices]
        for batch in others:  # nor is an image cropped as it was
            for i, pixels in zip(batch.indices, batch.images, strict=True):
                assert not torch.equal(pixels, crops[i])


def test_photos_are_turned_as_they_say_unless_told_not_to(tmp_path):
    turned = Image.Exif()
    turned[0x0112] = 6  # a quarter to the right
    pixels = np.random.default_rng(0).integers(0, 256, (20, 40, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png", exif=turned)
    files = find_images([str(tmp_path)])
    for exif, upright in ((True, np.rot90(pixels, -1)), (False, pixels)):
        options = {"size": 16, "batch_size": 1, "seed": 0, "epoch": 0, "workers": 0}
        (batch,) = augmented_batches(files, **options, exif=exif)
        draw = draw_view(crop_spec(16), uniforms(0, 0, 0, 1)[0], *upright.shape[:2])
        crop = render_crop(Image.fromarray(np.ascontiguousarray(upright)), draw)
        np.testing.assert_array_equal(batch.images[0].numpy(), crop.transpose(2, 0, 1))


def test_unreadable_files_are_missing_and_named(tmp_path):
    files = make_photos(tmp_path)
    files[4].path.write_bytes(b"")
    seen, failed = [], []
    for batch in augmented_batches(files, size=16, batch_size=4, seed=0, epoch=0, workers=0):
        seen += batch.indices
        failed += batch.failures
        assert len(batch.images) == len(batch.indices)
    assert sorted(seen) == [0, 1, 2, 3, 5, 6, 7, 8]
    assert failed == [(4, "empty file")]
