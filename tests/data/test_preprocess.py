"""Preprocessing against torchvision's transforms, bit by bit."""

import pickle

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import transforms
from torchvision.transforms import InterpolationMode

from dino_cli.config.shared import IMAGENET_MEAN, IMAGENET_STD, Preprocessing
from dino_cli.data import preprocess
from dino_cli.data.preprocess import build_transform, normalize

CPU = torch.device("cpu")


def picture(h: int, w: int, seed: int = 0) -> Image.Image:
    noise = np.random.default_rng(seed).integers(0, 256, (h, w, 3), dtype=np.uint8)
    return Image.fromarray(noise)


SIZES = [(375, 500), (500, 333), (224, 224), (256, 256), (300, 256), (31, 47), (1, 1), (1, 400)]
SIZES += [(1000, 7), (257, 255), (223, 225), (640, 427), (90, 1201)]


@pytest.mark.parametrize(("h", "w"), SIZES)
@pytest.mark.parametrize(("resize", "crop"), [(256, 224), (64, 57), (20, 33), (33, 20)])
def test_equals_torchvision(h: int, w: int, resize: int, crop: int) -> None:
    image = picture(h, w, h * w)
    theirs = transforms.Compose(
        [
            transforms.Resize(resize, interpolation=InterpolationMode.BICUBIC),
            transforms.CenterCrop(crop),
            transforms.ToTensor(),
            transforms.Normalize(IMAGENET_MEAN, IMAGENET_STD),
        ]
    )(image)
    p = Preprocessing(resize=resize, crop=crop)
    pixels = build_transform(p)(image)
    assert pixels.shape == (crop, crop, 3)
    assert pixels.dtype == np.uint8
    ours = normalize(torch.from_numpy(pixels).permute(2, 0, 1)[None], p, CPU)
    assert torch.equal(ours[0], theirs)


@pytest.mark.parametrize(("h", "w"), [(10, 21), (21, 10), (50, 50), (49, 51), (7, 90)])
def test_crop_alone_pads_as_torchvision(h: int, w: int) -> None:
    image = picture(h, w)
    for crop in (20, 21, 50):
        theirs = np.asarray(transforms.CenterCrop(crop)(image))
        ours = build_transform(Preprocessing(resize=None, crop=crop))(image)
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("name", ["bicubic", "bilinear", "lanczos", "nearest"])
def test_interpolation_and_stretching(name: str) -> None:
    image = picture(40, 60)
    p = Preprocessing(resize=(30, 50), crop=None, interpolation=name)
    expected = transforms.Resize((30, 50), interpolation=InterpolationMode(name))(image)
    np.testing.assert_array_equal(build_transform(p)(image), np.asarray(expected))


def test_trims_bottom_and_right_to_whole_patches() -> None:
    image = picture(50, 70)
    pixels = build_transform(Preprocessing(resize=None, crop=None, multiple=16))(image)
    np.testing.assert_array_equal(pixels, np.asarray(image)[:48, :64])


def test_smaller_than_one_patch_is_an_error() -> None:
    with pytest.raises(ValueError, match="smaller than one patch of 16"):
        build_transform(Preprocessing(resize=None, crop=None, multiple=16))(picture(15, 40))


def test_extreme_strips_compute_only_the_middle(monkeypatch: pytest.MonkeyPatch) -> None:
    """The shortcut for huge strips gives what the whole resize gives, up to Pillow's rounding.

    Pillow works on columns first where a tall strip shrinks, which moves single bytes of noise.
    """
    cases = [picture(3, 500, 1), picture(700, 4, 2), picture(2, 301, 3)]
    p = Preprocessing(resize=64, crop=56)
    whole = [build_transform(p)(image) for image in cases]
    monkeypatch.setattr(preprocess, "MOST_PIXELS", 1000)
    for image, expected in zip(cases, whole, strict=True):
        ours = build_transform(p)(image)
        difference = np.abs(ours.astype(int) - expected)
        assert difference.mean() < 0.5
        assert difference.max() <= 12
    monkeypatch.undo()
    strip = Image.new("RGB", (1, 2_000_000), (1, 2, 3))  # 256 x 512,000,000 without the shortcut
    assert (build_transform(Preprocessing())(strip) == (1, 2, 3)).all()
    with pytest.raises(ValueError, match="would become 256 x 512000000"):
        build_transform(Preprocessing(crop=None))(strip)


def test_is_picklable_for_worker_processes() -> None:
    image = picture(30, 40)
    transform = build_transform(Preprocessing())
    copy = pickle.loads(pickle.dumps(transform))
    np.testing.assert_array_equal(copy(image), transform(image))


def test_normalize_leaves_its_input_alone() -> None:
    images = torch.full((2, 3, 4, 4), 255, dtype=torch.uint8)
    p = Preprocessing(mean=(0.5, 0.25, 0.0), std=(0.5, 0.5, 2.0))
    x = normalize(images, p, CPU)
    assert x.dtype == torch.float32
    assert x[1, :, 0, 0].tolist() == [1.0, 1.5, 0.5]
    assert (images == 255).all()
