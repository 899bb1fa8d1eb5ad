"""Decoding: colour modes, rotation, broken files."""

import io
import struct
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dino_cli.data.decoding import decode
from dino_cli.data.decoding.decode import UnreadableImage, read_image
from dino_cli.data.decoding.own_depth import read_samples
from dino_cli.data.listing.formats import image_suffixes


def colours(h: int = 20, w: int = 30) -> Image.Image:
    y, x = np.mgrid[:h, :w]
    return Image.fromarray(np.stack([x * 8, y * 12, x + y], -1).astype(np.uint8))


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr"])
def test_equals_convert_rgb(tmp_path: Path, mode: str) -> None:
    path = tmp_path / ("x.tif" if mode in ("CMYK", "YCbCr", "PA") else "x.png")
    image = colours().convert(mode if mode != "PA" else "P")
    image.save(path)
    with Image.open(path) as opened:
        try:
            expected = np.asarray(opened.convert("RGB"))
        except OSError as error:
            pytest.skip(f"this Pillow cannot read what it wrote: {error}")
    ours = read_image(path)
    assert ours.mode == "RGB"
    np.testing.assert_array_equal(np.asarray(ours), expected)


def test_jpeg_is_decoded_in_full(tmp_path: Path) -> None:
    path = tmp_path / "x.jpg"
    colours(600, 800).save(path, quality=90)
    with Image.open(path) as opened:
        expected = np.asarray(opened.convert("RGB"))
    np.testing.assert_array_equal(np.asarray(read_image(path)), expected)


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_turns(tmp_path: Path, orientation: int, suffix: str) -> None:
    """Undoing by hand what each orientation says, against the same file read without turning."""
    turns = {
        1: lambda a: a,
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.transpose(1, 0, 2),
        6: lambda a: np.rot90(a, -1),
        7: lambda a: a.transpose(1, 0, 2)[::-1, ::-1],
        8: lambda a: np.rot90(a, 1),
    }
    path = tmp_path / f"x.{suffix}"
    exif = Image.Exif()
    exif[0x0112] = orientation
    colours().save(path, exif=exif)
    plain = np.asarray(read_image(path, exif=False))
    assert plain.shape == (20, 30, 3)
    np.testing.assert_array_equal(np.asarray(read_image(path)), turns[orientation](plain))


def test_sixteen_bits_keep_their_shades(tmp_path: Path) -> None:
    ramp = np.linspace(0, 65535, 256).astype(np.uint16)[None].repeat(4, 0)
    for name in ("x.png", "x.tif"):
        Image.fromarray(ramp).save(tmp_path / name)
        grey = np.asarray(read_image(tmp_path / name))
        np.testing.assert_array_equal(grey[0, :, 0], ramp[0] >> 8)
        assert (grey == grey[..., :1]).all()
    (tmp_path / "x.pgm").write_bytes(b"P5 256 4 65535\n" + ramp.astype(">u2").tobytes())
    np.testing.assert_array_equal(np.asarray(read_image(tmp_path / "x.pgm"))[0, :, 0], ramp[0] >> 8)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (np.float32([[0, 0.5, 1]]), [0, 128, 255]),
        (np.float32([[0, 100.4, 200]]), [0, 100, 200]),
        (np.float32([[-1, 0, 1]]), [0, 128, 255]),
        (np.float32([[0, 5000, 10000]]), [0, 128, 255]),
        (np.float32([[np.nan, 0, 1]]), [0, 0, 255]),
        (np.float32([[0.25, 0.25, 0.25]]), [64, 64, 64]),
        (np.int32([[0, 100, 200]]), [0, 100, 200]),
        (np.int32([[0, 256, 65535]]), [0, 1, 255]),
        (np.int32([[0, 50_000, 100_000]]), [0, 128, 255]),
        (np.int32([[-50, 0, 50]]), [0, 128, 255]),
    ],
)
def test_wide_greys_are_scaled_not_clipped(
    tmp_path: Path, values: np.ndarray, expected: list[int]
) -> None:
    Image.fromarray(values).save(tmp_path / "x.tif")
    assert np.asarray(read_image(tmp_path / "x.tif"))[0, :, 0].tolist() == expected


def test_nothing_finite_is_unreadable(tmp_path: Path) -> None:
    Image.fromarray(np.full((2, 2), np.nan, np.float32)).save(tmp_path / "x.tif")
    with pytest.raises(UnreadableImage, match="no finite pixel"):
        read_image(tmp_path / "x.tif")


def test_first_frame_of_an_animation(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (9, 9), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / "x.gif", save_all=True, append_images=frames[1:])
    assert read_image(tmp_path / "x.gif").getpixel((4, 4)) == (255, 0, 0)


def truncated(format: str) -> bytes:
    buffer = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(buffer, format)
    return buffer.getvalue()[: len(buffer.getvalue()) // 2]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty file"),
        (b"hello", "not a picture that Pillow knows"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n", "not a picture"),
        (truncated("JPEG"), "truncated"),
        (truncated("PNG"), "truncated"),
        (truncated("WEBP"), "."),
        (truncated("BMP"), "truncated"),
        (truncated("TIFF"), "."),
    ],
)
def test_broken_files_are_told(tmp_path: Path, content: bytes, reason: str) -> None:
    path = tmp_path / "x.jpg"
    path.write_bytes(content)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(UnreadableImage, match=reason) as caught:
            read_image(path)
    assert "x.jpg" not in caught.value.reason
    assert "\n" not in caught.value.reason


def test_missing_file_and_folder(tmp_path: Path) -> None:
    with pytest.raises(UnreadableImage, match="no such file"):
        read_image(tmp_path / "none.png")
    with pytest.raises(UnreadableImage, match="a folder"):
        read_image(tmp_path)


@pytest.mark.parametrize(
    "limit", [599, 299]
)  # Pillow warns above the limit, refuses above twice it
def test_too_many_pixels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: int) -> None:
    colours().save(tmp_path / "x.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    with pytest.raises(UnreadableImage, match=f"more than {limit} pixels"):
        read_image(tmp_path / "x.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 600)
    assert read_image(tmp_path / "x.png").size == (30, 20)


def test_12_bits_of_a_tiff_fill_the_range(tmp_path: Path) -> None:
    """Two samples in three bytes; Pillow gives them as numbers below 4096."""
    values = np.arange(0, 4096, 43)[:96].reshape(8, 12)
    first, second = values[:, ::2], values[:, 1::2]
    packed = np.stack([first >> 4, (first & 15) << 4 | second >> 8, second & 255], axis=-1)
    content = packed.astype(np.uint8).tobytes()
    tags = {256: 12, 257: 8, 258: 12, 259: 1, 262: 1, 273: 8, 277: 1, 278: 8, 279: len(content)}
    header = struct.pack("<2sHI", b"II", 42, 8 + len(content))
    table = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    path = tmp_path / "x.tif"
    path.write_bytes(header + content + struct.pack("<H", len(tags)) + table + b"\0\0\0\0")
    np.testing.assert_array_equal(np.asarray(read_image(path))[..., 0], values >> 4)
    np.testing.assert_allclose(read_samples(path, 1)[..., 0], values / 4095, rtol=1e-6)


def test_heif_without_its_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decode, "find_spec", lambda name: None)
    (tmp_path / "x.heic").write_bytes(b"\0\0\0\x18ftypheic")
    with pytest.raises(UnreadableImage, match="pillow-heif"):
        read_image(tmp_path / "x.heic")


def test_broken_exif_does_not_spoil_the_picture(tmp_path: Path) -> None:
    path = tmp_path / "x.jpg"
    colours().save(path, exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff" + b"\x01\x12" * 9)
    assert read_image(path).size == (30, 20)


def test_suffixes_are_pictures_only() -> None:
    suffixes = image_suffixes()
    assert {".jpg", ".jpeg", ".png", ".webp", ".tif", ".gif", ".bmp", ".ppm", ".heic"} <= suffixes
    assert not suffixes & {".pdf", ".eps", ".mpg", ".h5", ".wmf", ".txt", ".npy"}
