"""Large JPEGs from fewer pixels: the same picture as from all of them, and no other changes."""

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from dino_cli.config.shared import Preprocessing
from dino_cli.core.network.architecture import VitArchitecture
from dino_cli.core.network.vit import build_vit
from dino_cli.data.decoding.jpeg_draft import read_fitting
from dino_cli.data.decoding.own_depth import read_input
from dino_cli.data.listing.images import find_images
from dino_cli.data.loader import image_batches
from dino_cli.data.preprocess import build_transform, normalize

SMALL = Preprocessing(resize=64, crop=56)


def natural(h: int, w: int, seed: int = 0) -> Image.Image:
    """Noise whose amplitude falls with frequency as 1/f, as in photos, and some sharp edges."""
    rng = np.random.default_rng(seed)
    total = np.zeros((h, w, 3), np.float32)
    for octave in range(10):
        rows, columns = (max(2, min(side, 3 * 2**octave)) for side in (h, w))
        noise = rng.normal(size=(rows, columns, 3)).astype(np.float32)
        noise += 2 * rng.normal(size=(rows, columns, 1)).astype(np.float32)  # mostly of brightness
        total += cv2.resize(noise, (w, h), interpolation=cv2.INTER_CUBIC) / 2**octave
    for _ in range(6):
        at = rng.integers(0, (w, h), 2)
        colour = [float(value) for value in rng.normal(0, 3, 3)]
        cv2.ellipse(total, [int(v) for v in at], (w // 8, h // 12), 30, 0, 360, colour, -1)
    return Image.fromarray((110 + 30 * total).clip(0, 255).astype(np.uint8))


def both(path: Path, p: Preprocessing) -> tuple[np.ndarray, np.ndarray]:
    """Of one file: the model's input through fewer pixels, and through all of them."""
    fitting, transform = read_fitting(path, p), build_transform(p)
    assert isinstance(fitting, Image.Image)
    return transform(fitting), transform(read_input(path, p))


@pytest.mark.parametrize("size", [(700, 500), (501, 699), (643, 331), (257, 1031)])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_same_picture_of_any_size_and_orientation(
    tmp_path: Path, size: tuple[int, int], orientation: int
) -> None:
    path = tmp_path / "x.jpg"
    exif = Image.Exif()
    exif[0x0112] = orientation
    natural(size[1], size[0]).save(path, quality=92, exif=exif)
    for p in (SMALL, replace(SMALL, crop=None), replace(SMALL, resize=(48, 80), crop=None)):
        ours, full = both(path, p)
        assert ours.shape == full.shape
        difference = np.abs(ours.astype(float) - full)
        assert difference.mean() < 1.0
        # Half a pixel to the side would be far more than that.
        moved = np.abs(full[:, 1:].astype(float) - full[:, :-1]).mean() / 2
        assert difference.mean() < moved / 2


def test_pixels_that_are_decoded_are_at_least_twice_those_wanted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[int, int]] = []
    resize = Image.Image.resize
    monkeypatch.setattr(
        Image.Image,
        "resize",
        lambda self, *a, **k: (seen.append(self.size), resize(self, *a, **k))[1],
    )
    sides = {
        127: 127,
        128: 128,
        255: 255,
        256: 128,
        511: 256,
        512: 128,
        1023: 256,
        1024: 128,
        2048: 256,
    }
    for side, decoded in sides.items():
        path = tmp_path / f"{side}.jpg"
        Image.new("RGB", (side, side), (90, 20, 30)).save(path)
        seen.clear()
        array, _ = both(path, replace(SMALL, crop=None))
        assert array.shape == (64, 64, 3)
        assert seen[0] == (decoded, decoded), side


@pytest.mark.parametrize("mode", ["L", "RGB"])
@pytest.mark.parametrize("kind", ["baseline", "progressive", "MPO"])
def test_kinds_of_jpeg(tmp_path: Path, mode: str, kind: str) -> None:
    path = tmp_path / "x.jpg"
    picture = natural(400, 600).convert(mode)
    if kind == "MPO":
        picture.save(path, "MPO", save_all=True, append_images=[natural(400, 600, 1)], quality=92)
        with Image.open(path) as opened:
            assert opened.format == "MPO"
    else:
        picture.save(path, quality=92, progressive=kind == "progressive")
    ours, full = both(path, SMALL)
    assert np.abs(ours.astype(float) - full).mean() < 1.0
    assert not np.array_equal(ours, full)


def test_everything_else_is_decoded_in_full(tmp_path: Path) -> None:
    picture = natural(400, 600)
    picture.save(tmp_path / "x.jpg", quality=92)
    picture.save(tmp_path / "x.png")
    picture.convert("CMYK").save(tmp_path / "cmyk.jpg", quality=92)
    for name, p in (
        ("x.png", SMALL),
        ("cmyk.jpg", SMALL),
        ("x.jpg", replace(SMALL, exif=False)),
        ("x.jpg", replace(SMALL, interpolation="nearest")),
        ("x.jpg", replace(SMALL, resize=None)),
        ("x.jpg", replace(SMALL, resize=256, crop=224)),
    ):
        ours, full = both(tmp_path / name, p)
        np.testing.assert_array_equal(ours, full)


def lowest_cosine(paths: list[Path], p: Preprocessing, width: int, grid: int) -> float:
    """Between features of both ways, of a network with large weights, whose attention is sharp."""
    torch.manual_seed(0)
    net = build_vit(
        VitArchitecture(width=width, depth=4, heads=width // 32, patch_size=8, grid=(grid, grid))
    ).eval()
    for name, tensor in net.named_parameters():
        if tensor.ndim > 1 and "pos" not in name:
            tensor.data.mul_(6)
    pairs = [both(path, p) for path in paths]
    sides = zip(*pairs, strict=True)
    ours, full = (torch.from_numpy(np.stack(side)).permute(0, 3, 1, 2) for side in sides)
    with torch.inference_mode():
        a, b = (net(normalize(x, p, torch.device("cpu"))) for x in (ours, full))
    others = torch.cosine_similarity(b[:, None], b[None], dim=2)[~torch.eye(len(b)).bool()]
    assert others.max() < 0.99  # the network tells the pictures apart
    return float(torch.cosine_similarity(a, b).min())


def test_features_keep_their_direction(tmp_path: Path) -> None:
    sizes = [(600, 400), (258, 300), (520, 450), (300, 299)]
    for i, (w, h) in enumerate(sizes):
        natural(h, w, seed=i).save(tmp_path / f"{i}.jpg", quality=90)
    assert lowest_cosine(sorted(tmp_path.iterdir()), SMALL, 96, 7) >= 0.999


def test_the_loader_reads_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    natural(400, 600).save(tmp_path / "x.jpg", quality=92)
    files = find_images([str(tmp_path / "x.jpg")])
    (batch,) = image_batches(files, SMALL, batch_size=1, workers=0)
    ours, full = both(tmp_path / "x.jpg", SMALL)
    np.testing.assert_array_equal(batch.images[0].permute(1, 2, 0).numpy(), ours)
    exact = replace(SMALL, exif=False)
    (batch,) = image_batches(files, exact, batch_size=1, workers=0)
    np.testing.assert_array_equal(batch.images[0].permute(1, 2, 0).numpy(), full)


@pytest.mark.slow
def test_twelve_megapixels(tmp_path: Path) -> None:
    """Sharp photos of a camera through the usual resize."""
    for i, (w, h) in enumerate([(4000, 3000), (3024, 4032)]):
        natural(h, w, seed=i).save(tmp_path / f"{i}.jpg", quality=90)
    paths = sorted(tmp_path.iterdir())
    for path in paths:
        ours, full = both(path, Preprocessing())
        difference = np.abs(ours.astype(float) - full)
        assert difference.mean() < 0.6
        assert difference.max() <= 16
    assert lowest_cosine(paths, Preprocessing(), 192, 28) >= 0.9995
