"""Pictures in their own depth: which number a file's number becomes, and how views change it."""

import io
import struct
import tarfile
import zlib
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter

from dino_cli.config.shared import Preprocessing
from dino_cli.data.decoding.decode import UnreadableImage
from dino_cli.data.decoding.own_depth import as_picture, read_samples
from dino_cli.data.decoding.thumbnails import small_picture
from dino_cli.data.listing.images import find_images
from dino_cli.data.preprocess import build_transform, normalize
from dino_cli.data.views.draws import ViewDraw
from dino_cli.data.views.render_own_depth import render_samples

tifffile = pytest.importorskip("tifffile")

CPU = torch.device("cpu")
PLAIN = ViewDraw(
    size=(12, 8), top=2, left=3, height=24, width=16, flip=False, jitter=(), grayscale=False,
    sigma=0.0, solarize=False,
)  # fmt: skip


def noise(shape, dtype=np.float32, seed=0):
    rng = np.random.default_rng(seed)
    if np.dtype(dtype).kind == "f":
        return rng.normal(3, 40, shape).astype(dtype)
    limits = np.iinfo(dtype)
    return rng.integers(limits.min, limits.max, shape, dtype=dtype, endpoint=True)


# What is written, and the largest value that its type has: 1 for those that stay as they are.
RANGES = [
    (np.uint8, 255), (np.uint16, 65535), (np.uint32, 2**32 - 1), (np.int16, 1), (np.float32, 1),
    (np.float64, 1), (np.float16, 1),
]  # fmt: skip


@pytest.mark.parametrize(("dtype", "most"), RANGES)
@pytest.mark.parametrize("channels", [1, 2, 3, 5])
@pytest.mark.parametrize("suffix", [".npy", ".tif"])
def test_the_range_is_the_types(tmp_path, dtype, most, channels, suffix):
    values = noise((14, 9, channels), dtype)
    path = tmp_path / f"x{suffix}"
    written = values[..., 0] if channels == 1 else values
    if suffix == ".npy":
        np.save(path, written)
    else:
        colours = "rgb" if channels == 3 else "minisblack"
        planes = {} if channels == 1 else {"planarconfig": "contig"}
        tifffile.imwrite(path, written, photometric=colours, **planes)
    read = read_samples(path, channels)
    assert read.dtype == np.float32
    np.testing.assert_allclose(read, values.astype(np.float64) / most, rtol=1e-6)


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_a_16_bit_png_keeps_its_low_byte(tmp_path, channels):
    values = noise((14, 9, channels), np.uint16)
    order = {1: [0], 3: [2, 1, 0], 4: [2, 1, 0, 3]}[channels]
    assert cv2.imwrite(str(tmp_path / "x.png"), values[..., order])
    read = read_samples(tmp_path / "x.png", channels)
    np.testing.assert_allclose(read, values / 65535, rtol=1e-6)


@pytest.mark.parametrize("layout", ["planes", "pages", "compressed"])
def test_bands_of_a_tiff_wherever_they_lie(tmp_path, layout):
    values = noise((14, 9, 5), np.uint16)
    how = {
        "planes": {"planarconfig": "separate", "data": values.transpose(2, 0, 1)},
        "pages": {"data": values.transpose(2, 0, 1)},
        "compressed": {"planarconfig": "contig", "compression": "zlib", "data": values},
    }[layout]
    tifffile.imwrite(tmp_path / "x.tif", photometric="minisblack", **how)
    np.testing.assert_allclose(read_samples(tmp_path / "x.tif", 5), values / 65535, rtol=1e-6)


def test_grey_of_a_photo_is_its_luminance_and_alpha_is_dropped(tmp_path):
    rgba = noise((14, 9, 4), np.uint8)
    Image.fromarray(rgba).save(tmp_path / "x.png")
    grey = read_samples(tmp_path / "x.png", 1)[..., 0]
    expected = (rgba[..., :3] / 255) @ [0.299, 0.587, 0.114]
    np.testing.assert_allclose(grey, expected, atol=1e-6)
    np.testing.assert_allclose(read_samples(tmp_path / "x.png", 4), rgba / 255, atol=1e-6)


@pytest.mark.parametrize("kind", ["png", "unassalpha", "assocalpha"])
@pytest.mark.parametrize("shape", [(14, 9, 4), (1, 9, 4)])
def test_alpha_of_16_bits_is_dropped_too(tmp_path, kind, shape):
    rgba, path = noise(shape, np.uint16), tmp_path / f"x.{'png' if kind == 'png' else 'tif'}"
    if kind == "png":
        assert cv2.imwrite(str(path), rgba[..., [2, 1, 0, 3]])
    else:
        tifffile.imwrite(path, rgba, photometric="rgb", extrasamples=[kind])
    expected = (rgba[..., :3] / 65535) @ [0.299, 0.587, 0.114]
    np.testing.assert_allclose(read_samples(path, 1)[..., 0], expected, atol=1e-6)
    for channels, wanted in {3: rgba[..., :3], None: rgba[..., :3], 4: rgba}.items():
        np.testing.assert_allclose(read_samples(path, channels), wanted / 65535, atol=1e-6)


def test_alpha_beside_grey_of_16_bits(tmp_path):
    """Pillow and OpenCV write no such PNG."""
    values = noise((14, 9, 2), np.uint16)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    header = struct.pack(">IIBBBBB", 9, 14, 16, 4, 0, 0, 0)
    content = b"\x89PNG\r\n\x1a\n"
    for name, data in ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")):
        check = struct.pack(">I", zlib.crc32(name + data))
        content += struct.pack(">I", len(data)) + name + data + check
    path = tmp_path / "x.png"
    path.write_bytes(content)
    np.testing.assert_allclose(read_samples(path, 1), values[..., :1] / 65535, atol=1e-6)
    np.testing.assert_allclose(read_samples(path, 2), values / 65535, atol=1e-6)
    with pytest.raises(UnreadableImage, match="has 1 channels, and the model takes 4"):
        read_samples(path, 4)


def test_exif_turns_them(tmp_path):
    values = noise((14, 9, 3), np.uint16)
    for orientation in range(1, 9):
        tag = [(274, "H", 1, orientation, True)]
        tifffile.imwrite(tmp_path / "x.tif", values, photometric="rgb", extratags=tag)
        exif = Image.Exif()
        exif[274] = orientation
        marks = np.arange(14 * 9, dtype=np.uint8).reshape(14, 9)
        Image.fromarray(marks).save(tmp_path / "x.png", exif=exif)
        turned = read_samples(tmp_path / "x.png", 1)[..., 0] * 255
        place = np.rint(turned).astype(int)
        read = read_samples(tmp_path / "x.tif", 3)
        np.testing.assert_allclose(read, (values / 65535).reshape(-1, 3)[place], rtol=1e-6)


@pytest.mark.parametrize("exif", [True, False])
def test_exif_turns_16_bit_colour_where_it_shall(tmp_path, exif):
    values, path = noise((14, 9, 3), np.uint16), tmp_path / "x.png"
    content = bytearray(cv2.imencode(".png", values[..., ::-1])[1].tobytes())
    told = Image.Exif()
    told[274] = 6
    data = b"eXIf" + told.tobytes()[6:]
    chunk = struct.pack(">I", len(data) - 4) + data + struct.pack(">I", zlib.crc32(data))
    content[33:33] = chunk  # behind the header
    path.write_bytes(content)
    wanted = np.rot90(values, -1) if exif else values
    np.testing.assert_allclose(read_samples(path, 3, exif=exif), wanted / 65535, rtol=1e-6)


def test_numbers_that_are_not_finite_become_the_smallest(tmp_path):
    values = np.array([[1, np.nan], [np.inf, -2]], np.float32)
    np.save(tmp_path / "x.npy", values)
    np.testing.assert_array_equal(read_samples(tmp_path / "x.npy", 1)[..., 0], [[1, -2], [-2, -2]])


@pytest.mark.parametrize(
    ("array", "channels", "reason"),
    [
        (np.zeros((4, 4, 3)), 5, "has 3 channels, and the model takes 5"),
        (np.full((4, 4), np.nan), 1, "no finite pixel"),
        (np.zeros((4,)), 1, "an array of 4, not rows"),
        (np.zeros((0, 4)), 1, "not rows"),
        (np.zeros((4, 4), complex), 1, "no array of real numbers"),
        (np.array([{}], object), 1, "no NumPy file of numbers"),
    ],
)
def test_what_is_no_such_picture(tmp_path, array, channels, reason):
    np.save(tmp_path / "x.npy", array)
    with pytest.raises(UnreadableImage, match=reason):
        read_samples(tmp_path / "x.npy", channels)


@pytest.mark.parametrize("name", ["x.npy", "x.tif", "x.png"])
def test_damage_is_a_reason(tmp_path, name, capfd):
    path = tmp_path / name
    values = noise((40, 30, 3), np.uint16)
    if name == "x.npy":
        np.save(path, values)
    elif name == "x.tif":
        tifffile.imwrite(path, values, photometric="rgb")
    else:
        cv2.imwrite(str(path), values)
    whole = path.read_bytes()
    turned = bytes(byte ^ 255 for byte in whole[200:240])
    damaged = [whole[:200] + turned + whole[240:]] if name == "x.png" else []
    for content in (whole[: len(whole) // 2], b"", b"nothing", *damaged):
        path.write_bytes(content)
        with pytest.raises(UnreadableImage, match=r".+"):
            read_samples(path, 3)
    assert capfd.readouterr().err == ""  # nor of the libraries


def test_a_tiff_without_tifffile_says_what_is_missing(tmp_path, monkeypatch):
    tifffile.imwrite(tmp_path / "x.tif", noise((9, 9, 5), np.uint16), planarconfig="contig")
    tifffile.imwrite(tmp_path / "grey.tif", noise((9, 9), np.uint16))
    monkeypatch.setattr("dino_cli.data.decoding.arrays.find_spec", lambda _: None)
    with pytest.raises(UnreadableImage, match=r"dino-cli\[tiff\]"):
        read_samples(tmp_path / "x.tif", 5)
    assert read_samples(tmp_path / "grey.tif", 1).shape == (9, 9, 1)  # Pillow's


def test_in_shards_too(tmp_path):
    values = noise((14, 9, 3), np.uint16)
    cv2.imwrite(str(tmp_path / "x.png"), values[..., ::-1])
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, noise((14, 9, 5)), planarconfig="contig", photometric="minisblack")
    with tarfile.open(tmp_path / "s.tar", "w") as tar:
        tar.add(tmp_path / "x.png", "x.png")
        member = tarfile.TarInfo("y.tif")
        member.size = buffer.tell()
        buffer.seek(0)
        tar.addfile(member, buffer)
    png, tif = find_images([str(tmp_path / "s.tar")])
    np.testing.assert_allclose(read_samples(png.path, 3), values / 65535, rtol=1e-6)
    np.testing.assert_array_equal(read_samples(tif.path, 5), noise((14, 9, 5)))


def test_a_folder_of_arrays_is_found_one_of_photos_leaves_them_out(tmp_path):
    for name in ("a/1.npy", "b/2.npy"):
        (tmp_path / name).parent.mkdir()
        np.save(tmp_path / name, noise((9, 9)))
    assert [(f.path.name, f.label) for f in find_images([str(tmp_path)])] == [
        ("1.npy", "a"), ("2.npy", "b"),
    ]  # fmt: skip
    Image.new("L", (9, 9)).save(tmp_path / "a" / "photo.png")
    assert [f.path.name for f in find_images([str(tmp_path)])] == ["photo.png"]


def test_the_models_input_equals_pillows_resize_in_float(tmp_path):
    """Each channel resized by Pillow in mode F, cut, then (x - mean) / std."""
    values = noise((40, 30, 2))
    p = Preprocessing(resize=20, crop=16, mean=(1.0, 2.0), std=(3.0, 4.0), own_depth=True)
    ready = build_transform(p)(values)
    assert ready.shape == (16, 16, 2)
    assert ready.dtype == np.float32
    x = normalize(torch.from_numpy(ready).permute(2, 0, 1)[None], p, CPU)
    for c in range(2):
        plane = Image.fromarray(values[..., c]).resize((20, 26), Image.Resampling.BICUBIC)
        expected = (np.asarray(plane)[5:21, 2:18] - p.mean[c]) / p.std[c]
        np.testing.assert_allclose(x[0, c], expected, rtol=1e-5, atol=1e-5)


def test_a_rectangular_crop_is_covered_by_the_resize():
    p = Preprocessing(resize=24, crop=(40, 20), own_depth=True, mean=(0.0,), std=(1.0,))
    for shape in [(50, 50), (100, 50), (30, 200), (7, 3)]:
        assert build_transform(p)(np.ones((*shape, 1), np.float32)).shape == (40, 20, 1)
        assert build_transform(p)(np.ones((*shape, 1), np.float32)).min() > 0.99  # no border
    square = replace(p, crop=(20, 20))
    values = noise((50, 31, 1))
    np.testing.assert_array_equal(
        build_transform(square)(values), build_transform(replace(p, crop=20))(values)
    )


def test_views_are_pillows_in_mode_f():
    values = noise((40, 30, 3))
    view = render_samples(values, PLAIN)
    for c in range(3):
        plane = Image.fromarray(values[2:26, 3:19, c]).resize((8, 12), Image.Resampling.BICUBIC)
        np.testing.assert_allclose(view[..., c], np.asarray(plane), atol=2e-3)
    flipped = render_samples(values, replace(PLAIN, flip=True))
    np.testing.assert_array_equal(flipped, view[:, ::-1])


@pytest.mark.parametrize("channels", [1, 3, 7, 129])
def test_brightness_contrast_and_blur_and_no_colours(channels):
    values = noise((40, 30, channels))
    view = render_samples(values, PLAIN)
    for name in ("hue", "saturation"):
        np.testing.assert_array_equal(
            render_samples(values, replace(PLAIN, jitter=((name, 0.4),))), view
        )
    np.testing.assert_array_equal(
        render_samples(values, replace(PLAIN, grayscale=True, solarize=True)), view
    )
    bright = render_samples(values, replace(PLAIN, jitter=(("brightness", 1.3),)))
    np.testing.assert_allclose(bright, view * 1.3, rtol=1e-5)
    flat = render_samples(values, replace(PLAIN, jitter=(("contrast", 0.5),)))
    np.testing.assert_allclose(flat, view.mean() + 0.5 * (view - view.mean()), rtol=1e-3, atol=1e-3)
    blurred = render_samples(values, replace(PLAIN, sigma=1.5))
    assert blurred.shape == (12, 8, channels)
    alone = render_samples(values[..., -1:], replace(PLAIN, sigma=1.5))
    np.testing.assert_allclose(blurred[..., -1:], alone, rtol=1e-5, atol=1e-3)
    bytes_ = np.rint(np.interp(view[..., 0], (-150, 150), (0, 255))).astype(np.uint8)
    pil = np.asarray(Image.fromarray(bytes_).filter(ImageFilter.GaussianBlur(1.5)))
    ours = np.interp(blurred[..., 0], (-150, 150), (0, 255))
    assert np.abs(ours - pil).max() < 4


def test_what_is_shown_keeps_the_brightness_of_shares_and_stretches_the_rest():
    shares = np.linspace(0, 1, 256, dtype=np.float32).reshape(16, 16, 1)
    np.testing.assert_array_equal(as_picture(shares)[..., 1].ravel(), np.arange(256))
    signed = np.array([[[-1.0], [0.0], [1.0]]], np.float32)
    assert as_picture(signed)[0, :, 0].tolist() == [0, 128, 255]
    wide = as_picture(noise((16, 16, 5)))
    assert (wide.min(), wide.max(), wide.shape) == (0, 255, (16, 16, 3))


def test_thumbnails_of_what_is_no_photo(tmp_path):
    values = noise((40, 20, 5))
    np.save(tmp_path / "x.npy", values)
    tifffile.imwrite(tmp_path / "x.tif", values, photometric="minisblack", planarconfig="contig")
    small = [np.asarray(small_picture(tmp_path / name, side=20)) for name in ("x.npy", "x.tif")]
    assert small[0].shape == (20, 10, 3)
    np.testing.assert_array_equal(*small)
    assert small[0].std() > 5
    (tmp_path / "bad.npy").write_bytes(b"nothing")
    with pytest.raises(ValueError, match="array"):
        small_picture(tmp_path / "bad.npy")
