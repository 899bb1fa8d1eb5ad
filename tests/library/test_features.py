"""`dino_cli.embed`: the same features as the command."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

import dino_cli
from dino_cli.cli.app import app
from dino_cli.errors import TaskError, UsageError
from dino_cli.store.embeddings.reading import read_embeddings


def test_embed_equals_the_command(
    photos: Path, weights: Path, model: dino_cli.Model, tmp_path: Path
) -> None:
    (photos / "b/bad.jpg").write_bytes(b"")
    arguments = [
        "embed", photos, "-o", tmp_path / "f.npz", "--weights", weights, "--heads", 2, "--device",
        "cpu", "--precision", "fp32", "--features", "cls,patch", "--normalize",
    ]  # fmt: skip
    assert CliRunner().invoke(app, list(map(str, arguments))).exit_code == 0
    made = read_embeddings(tmp_path / "f.npz")
    found = dino_cli.embed(photos, model, features="cls,patch", normalize=True)
    assert (found.paths, found.labels) == (made.paths, made.labels)
    assert found.skipped == [(f"{photos}/b/bad.jpg", "empty file")]
    np.testing.assert_array_equal(found.vectors, made.features[0:6])
    np.testing.assert_array_equal(found.arrays["patch"], made.arrays["patch"][0:6])

    opened = [Image.open(path) for path in found.paths]
    for pictures in (opened, [np.asarray(image) for image in opened]):
        memory = dino_cli.embed(pictures, model, normalize=True)
        np.testing.assert_array_equal(memory.vectors, found.vectors)
        assert memory.paths == [""] * 6
    one = dino_cli.embed(np.asarray(opened[0]), model, normalize=True)
    np.testing.assert_allclose(one.vectors[0], found.vectors[0], atol=1e-5)
    with pytest.raises(TaskError, match=r"bad\.jpg': empty file"):
        dino_cli.embed(photos, model, strict=True)
    with pytest.raises(TaskError, match="cannot be read as a picture"):
        dino_cli.embed(photos / "b/bad.jpg", model)


def test_rows_and_labels_stay_in_the_order_of_the_pictures(
    photos: Path, model: dino_cli.Model
) -> None:
    """Those of one size go through the network together, some of each batch."""
    for path in (photos / "a/1.png", photos / "b/0.png"):
        with Image.open(path) as image:
            image.crop((0, 0, 50, 70)).save(path)
    whole = dino_cli.embed(photos, model, image_size="64", batch_size=4)
    assert whole.paths == [f"{photos}/{name}/{i}.png" for name in "ab" for i in range(3)]
    assert whole.labels == list("aaabbb")
    files = [Image.open(path) for path in whole.paths]
    for pictures in (files, [image.convert("RGBA") for image in files]):
        memory = dino_cli.embed(pictures, model, image_size="64", batch_size=4)
        np.testing.assert_allclose(memory.vectors, whole.vectors, atol=1e-5)
    alone = [dino_cli.embed(path, model, image_size="64").vectors[0] for path in whole.paths]
    np.testing.assert_allclose(whole.vectors, alone, atol=1e-5)
    given = dino_cli.embed([photos / "b", photos / "a"], model, image_size="64")
    assert given.labels == list("bbbaaa")  # folders of several names name the classes
    pixels = np.stack([np.asarray(image.resize((64, 64))) for image in files])
    assert dino_cli.embed(pixels, model).vectors.shape == (6, 64)


def test_an_earlier_layer_equals_the_commands(
    photos: Path, weights: Path, model: dino_cli.Model, tmp_path: Path
) -> None:
    arguments = [
        "embed", photos, "-o", tmp_path / "f.npz", "--weights", weights, "--heads", 2, "--device",
        "cpu", "--precision", "fp32", "--features", "cls,patch", "--layer", -2,
    ]  # fmt: skip
    assert CliRunner().invoke(app, list(map(str, arguments))).exit_code == 0
    made = read_embeddings(tmp_path / "f.npz")
    before = dino_cli.embed(photos, model)
    found = dino_cli.embed(photos, model, features="cls,patch", layer=0)
    np.testing.assert_array_equal(found.vectors, made.features[0:6])
    np.testing.assert_array_equal(found.arrays["patch"], made.arrays["patch"][0:6])
    opened = [Image.open(path) for path in found.paths]
    memory = dino_cli.embed(opened, model, layer=0)
    np.testing.assert_array_equal(memory.vectors, found.vectors)
    after = dino_cli.embed(photos, model)  # the model was not cut short
    np.testing.assert_array_equal(after.vectors, before.vectors)
    assert np.abs(after.vectors - found.vectors).max() > 1e-2
    for pictures in (photos, opened):
        with pytest.raises(UsageError, match=r"layer 2 asked for, but .* has 2 blocks, 0 to 1"):
            dino_cli.embed(pictures, model, layer=2)
