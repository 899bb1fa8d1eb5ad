"""`dino embed` through the command line, on files."""

import csv
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from in_process import refusal
from PIL import Image
from safetensors.torch import load_file
from torchvision import transforms
from torchvision.transforms import InterpolationMode
from typer.testing import CliRunner, Result

from dino_cli.cli.app import app
from dino_cli.core.network.architecture import VitArchitecture
from dino_cli.core.network.backbone import Backbone
from dino_cli.core.network.vit import build_vit


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["embed", *map(str, arguments)])


def embed(photos: Path, weights: Path, output: Path, *options: object) -> dict[str, Any]:
    fixed = ["-o", output, "--weights", weights, "--device", "cpu", "--json", "--quiet"]
    if "--precision" not in options:
        fixed += ["--precision", "fp32"]
    result = run(photos, *fixed, *options)
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)  # type: ignore[no-any-return]


def expected_features(weights: Path, paths: list[Path], size: int = 224) -> np.ndarray:
    """Picture by picture with torchvision's transforms, as the original evaluates."""
    net = build_vit(VitArchitecture(width=64, depth=2, heads=1, patch_size=16, grid=(14, 14)))
    net.load_state_dict(load_file(weights))
    transform = transforms.Compose(
        [
            transforms.Resize(size * 256 // 224, interpolation=InterpolationMode.BICUBIC),
            transforms.CenterCrop(size),
            transforms.ToTensor(),
            transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ]
    )
    net.eval()
    with torch.inference_mode():
        return np.stack(
            [net(transform(Image.open(p).convert("RGB"))[None])[0].numpy() for p in paths]
        )


def test_features_paths_and_what_made_them(
    photos: Path, tiny_weights: Path, tmp_path: Path
) -> None:
    result = embed(photos, tiny_weights, tmp_path / "feats.npy", "--batch-size", 5)
    paths = sorted(photos.glob("*/*.png"))
    features = np.load(tmp_path / "feats.npy")
    np.testing.assert_allclose(features, expected_features(tiny_weights, paths), atol=2e-5)
    assert np.ptp(features, axis=0).max() > 0.1  # the pictures do differ

    with (tmp_path / "feats.csv").open(newline="") as file:
        rows = list(csv.reader(file))
    assert rows == [["path", "label"], *[[p.as_posix(), p.parent.name] for p in paths]]

    facts = json.loads((tmp_path / "feats.json").read_text())
    assert facts["format"] == 1
    assert facts["features"] == "cls"
    assert facts["precision"] == "fp32"
    assert (facts["count"], facts["dim"]) == (12, 64)
    assert facts["classes"] == ["blue", "green", "red"]
    assert facts["preprocessing"]["resize"] == 256
    assert facts["preprocessing"]["crop"] == 224
    assert len(facts["weights_sha256"]) == 64
    assert Path(facts["weights"]).samefile(tiny_weights)

    assert result["output"] == str(tmp_path / "feats.npy")
    assert (result["count"], result["dim"], result["skipped"]) == (12, 64, 0)
    assert result["skipped_list"] is None
    assert result["seconds"] > 0
    assert result["images_per_second"] > 0


def test_options_change_what_they_say(photos: Path, tiny_weights: Path, tmp_path: Path) -> None:
    paths = sorted(photos.glob("*/*.png"))
    small = ["--resize", 128, "--crop", 112]
    embed(photos, tiny_weights, tmp_path / "small.npy", *small)
    plain = np.load(tmp_path / "small.npy")
    np.testing.assert_allclose(plain, expected_features(tiny_weights, paths, 112), atol=2e-5)
    facts = json.loads((tmp_path / "small.json").read_text())
    assert (facts["preprocessing"]["resize"], facts["preprocessing"]["crop"]) == (128, 112)

    embed(photos, tiny_weights, tmp_path / "unit.npy", *small, "--normalize")
    lengths = np.linalg.norm(plain, axis=1, keepdims=True)
    np.testing.assert_allclose(np.load(tmp_path / "unit.npy"), plain / lengths, atol=1e-5)

    embed(photos, tiny_weights, tmp_path / "both.npy", *small, "--features", "cls+mean")
    both = np.load(tmp_path / "both.npy")
    assert both.shape == (12, 128)
    np.testing.assert_allclose(both[:, :64], plain, atol=1e-5)
    embed(photos, tiny_weights, tmp_path / "mean.npy", *small, "--features", "mean")
    np.testing.assert_allclose(both[:, 64:], np.load(tmp_path / "mean.npy"), atol=1e-5)

    embed(photos, tiny_weights, tmp_path / "low.npy", *small, "--precision", "bf16")
    low = np.load(tmp_path / "low.npy")
    cosines = (low * plain).sum(1) / np.linalg.norm(low, axis=1) / lengths[:, 0]
    assert cosines.min() > 0.999
    assert not np.array_equal(low, plain)


def test_exif_is_followed_unless_told(photos: Path, tiny_weights: Path, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    with Image.open(photos / "red/0.png") as image:
        image.save(tmp_path / "turned.png", exif=exif)
        image.transpose(Image.Transpose.ROTATE_270).save(tmp_path / "upright.png")
    for name, option in (("a", "--exif"), ("b", "--no-exif")):
        images = [tmp_path / "turned.png", tmp_path / "upright.png", photos / "red/0.png"]
        result = run(
            *images, "-o", tmp_path / f"{name}.npy", "--weights", tiny_weights,
            "--precision", "fp32", "--device", "cpu", option,
        )  # fmt: skip
        assert result.exit_code == 0, result.output
    turned, unturned = np.load(tmp_path / "a.npy"), np.load(tmp_path / "b.npy")
    np.testing.assert_allclose(turned[0], turned[1], atol=1e-5)
    np.testing.assert_allclose(unturned[0], unturned[2], atol=1e-5)
    assert np.abs(turned[0] - unturned[0]).max() > 1e-3


def test_broken_files_are_skipped_counted_and_named(
    photos: Path, tiny_weights: Path, tmp_path: Path
) -> None:
    (photos / "blue/0.png").write_bytes(b"")
    (photos / "red/9.jpg").write_bytes(b"no picture")
    result = run(photos, "-o", tmp_path / "feats.npy", "--weights", tiny_weights, "--device", "cpu")
    assert result.exit_code == 0
    line = f"{tmp_path}/feats.npy: 11 x 64, 2 skipped (see {tmp_path}/feats.skipped.csv), "
    assert result.stdout.startswith(line)
    assert result.stdout.count("\n") == 1
    assert np.load(tmp_path / "feats.npy").shape == (11, 64)
    with (tmp_path / "feats.csv").open(newline="") as file:
        paths = [row["path"] for row in csv.DictReader(file)]
    assert paths == [p.as_posix() for p in sorted(photos.glob("*/*.png"))[1:]]
    with (tmp_path / "feats.skipped.csv").open(newline="") as file:
        assert list(csv.reader(file)) == [
            ["path", "reason"],
            [f"{photos}/blue/0.png", "empty file"],
            [f"{photos}/red/9.jpg", "not a picture that Pillow knows"],
        ]
    (photos / "blue/0.png").unlink()
    (photos / "red/9.jpg").unlink()
    embed(photos, tiny_weights, tmp_path / "feats.npy", "--overwrite")
    assert not (tmp_path / "feats.skipped.csv").exists()


@pytest.mark.parametrize("compression", ["tiff_lzw", "tiff_deflate", "group4"])
def test_damaged_tiffs_are_told_by_name_and_by_us_alone(
    photos: Path, tiny_weights: Path, tmp_path: Path, capfd: Any, compression: str
) -> None:
    """libtiff would write to stderr by itself."""
    path, noise = photos / "blue/9.tif", np.random.default_rng(0).integers(0, 256, (64, 64, 3))
    picture = Image.fromarray(noise.astype(np.uint8))
    picture.convert("1" if compression == "group4" else "RGB").save(path, compression=compression)
    content = bytearray(path.read_bytes())
    for place in range(200, len(content) - 300, 37):
        content[place] ^= 255
    path.write_bytes(content)
    embed(photos, tiny_weights, tmp_path / "f.npy")
    assert capfd.readouterr().err == ""
    if compression != "group4":  # which goes on after an error
        assert f"{path},decoder error" in (tmp_path / "f.skipped.csv").read_text()


def fails(code: int, *arguments: object) -> str:
    return refusal(code, "embed", *arguments)


def test_strict_and_nothing_readable(photos: Path, tiny_weights: Path, tmp_path: Path) -> None:
    bad = photos / "blue/0.png"
    bad.write_bytes(b"")
    out = ["-o", tmp_path / "feats.npy", "--weights", tiny_weights, "--device", "cpu"]
    before = sorted(os.listdir(tmp_path))
    assert f"cannot read '{bad}': empty file" in fails(1, photos, "--strict", *out)
    text = fails(1, bad, *out)
    assert f"the file cannot be read as a picture ('{bad}': empty file)" in text
    assert sorted(os.listdir(tmp_path)) == before


def test_misuse_is_a_sentence(photos: Path, tiny_weights: Path, tmp_path: Path) -> None:
    one = photos / "red/0.png"
    model = ["--weights", tiny_weights, "--device", "cpu"]
    out = ["-o", tmp_path / "feats.npy", *model]
    before = sorted(os.listdir(tmp_path))
    assert "no pictures given; name some: dino embed" in fails(2, *out)
    assert "'gone.jpg' does not exist" in fails(1, "gone.jpg", *out)
    assert "use .npy" in fails(2, one, "-o", tmp_path / "feats.txt", *model)
    assert "does not exist; mkdir -p" in fails(1, one, "-o", tmp_path / "no/feats.npy", *model)
    assert "batch size 0" in fails(2, one, *out, "--batch-size", 0)
    assert "-1 workers" in fails(2, one, *out, "--workers", -1)
    assert "--crop 0 is not a positive" in fails(2, one, *out, "--crop", 0)
    assert "crop of 224 pixels is larger" in fails(2, one, *out, "--resize", 100)
    assert "--crop 200 is not a multiple of the patch size 16; use --crop 192" in fails(
        2, one, *out, "--crop", 200
    )
    assert sorted(os.listdir(tmp_path)) == before


def test_outputs_are_not_overwritten(photos: Path, tiny_weights: Path, tmp_path: Path) -> None:
    (tmp_path / "feats.csv").write_text("mine")
    out = ["-o", tmp_path / "feats.npy", "--weights", tiny_weights, "--device", "cpu"]
    assert "feats.csv' already exists; use --overwrite" in fails(1, photos, *out)
    assert (tmp_path / "feats.csv").read_text() == "mine"
    assert run(photos, *out, "--overwrite").exit_code == 0
    assert (tmp_path / "feats.csv").read_text().startswith("path,label\n")


def test_list_on_stdin(photos: Path, tiny_weights: Path, tmp_path: Path) -> None:
    arguments = [
        "embed",
        "-",
        "-o",
        tmp_path / "f.npy",
        "--weights",
        tiny_weights,
        "--device",
        "cpu",
    ]
    result = CliRunner().invoke(
        app,
        list(map(str, arguments)),
        input=f"{photos}/red/1.png\tA\n{photos}/blue/1.png\tB\n",
    )
    assert result.exit_code == 0, result.output
    text = (tmp_path / "f.csv").read_text()
    assert text == f"path,label\n{photos}/red/1.png,A\n{photos}/blue/1.png,B\n"


def test_features_that_are_not_finite_are_refused(
    photos: Path, tiny_weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        Backbone, "pooled", lambda self, output: torch.full((len(output), 4), torch.nan)
    )
    out = ["-o", tmp_path / "feats.npy", "--weights", tiny_weights, "--device", "cpu"]
    assert "are not finite; use --precision fp32" in fails(1, photos, *out)
    assert sorted(os.listdir(tmp_path)) == ["photos"]


def test_a_link_to_itself_is_one_unreadable_file(
    photos: Path, tiny_weights: Path, tmp_path: Path
) -> None:
    (photos / "red/self.png").symlink_to("self.png")
    (photos / "red/other.txt").symlink_to("other.txt")
    result = embed(photos, tiny_weights, tmp_path / "feats.npy", "--workers", 0)
    assert (result["count"], result["skipped"]) == (12, 1)
    listed = (tmp_path / "feats.skipped.csv").read_text().splitlines()
    assert listed[1:] == [f"{photos}/red/self.png,a link that leads to itself"]


def test_features_never_replace_what_they_are_made_of(
    photos: Path, tiny_weights: Path, tmp_path: Path
) -> None:
    """--overwrite means earlier features, not the weights or a picture."""
    weights = tmp_path / "w.safetensors"
    weights.write_bytes(tiny_weights.read_bytes())
    picture = tmp_path / "grey.npy"
    np.save(picture, np.zeros((32, 32), np.uint8))
    for output in (weights, picture):
        before = output.read_bytes()
        words = ["embed", photos, picture, "--weights", weights, "-o", output, "--overwrite"]
        assert "is read, and would be replaced" in refusal(1, *words, "--device", "cpu")
        assert output.read_bytes() == before
