"""`dino_cli.attention_masks`: the same masks as the command."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

import dino_cli
from dino_cli.cli.app import app


@pytest.mark.parametrize("masks", ["attention", "seeded", "cut"])
@pytest.mark.parametrize("refine", ["none", "guided"])
def test_masks_equal_the_command(
    photos: Path, weights: Path, model: dino_cli.Model, tmp_path: Path, masks: str, refine: str
) -> None:
    arguments = [
        "attention", photos / "a/1.png", "-o", tmp_path / "out", "--weights", weights, "--heads",
        2, "--device", "cpu", "--precision", "fp32", "--image-size", 64, "--masks", masks,
        "--refine", refine, "--head", "best",
    ]  # fmt: skip
    result = CliRunner().invoke(app, list(map(str, arguments)))
    assert result.exit_code == 0, result.output
    name = "mask_best.png" if masks == "attention" else f"mask_{masks}.png"
    with Image.open(tmp_path / "out/1" / name) as picture:
        expected = np.asarray(picture) > 0
    (found,) = dino_cli.attention_masks(
        photos / "a/1.png", model, masks=masks, refine=refine, image_size="64"
    )
    np.testing.assert_array_equal(found.mask, expected)
    assert found.mask.shape == (70, 89)
    attention = np.load(tmp_path / "out/1/attention.npy")
    np.testing.assert_allclose(found.attention, attention, atol=1e-6)
    assert found.path == f"{photos}/a/1.png"


@pytest.mark.parametrize("head", [0, 1, "mean"])
def test_the_mask_of_any_head_equals_the_command(
    photos: Path, weights: Path, model: dino_cli.Model, tmp_path: Path, head: Any
) -> None:
    arguments = [
        "attention", photos / "a", "-o", tmp_path / "out", "--weights", weights, "--heads", 2,
        "--device", "cpu", "--precision", "fp32", "--image-size", 64, "--head", head,
        "--threshold", 0.4, "--json",
    ]  # fmt: skip
    result = CliRunner().invoke(app, list(map(str, arguments)))
    assert result.exit_code == 0, result.output
    masks = dino_cli.attention_masks(
        [photos / f"a/{i}.png" for i in range(3)], model, image_size="64", masks="attention",
        head=head, refine="none", threshold=0.4,
    )  # fmt: skip
    told = json.loads(result.stdout)["images"]
    for mask, facts in zip(masks, told, strict=True):
        name = head if head == "mean" else f"head{head}"
        with Image.open(Path(facts["folder"]) / f"mask_{name}.png") as picture:
            np.testing.assert_array_equal(mask.mask, np.asarray(picture) > 0)
        assert (mask.path, mask.best_head) == (facts["input"], facts["best_head"])
    assert {mask.best_head for mask in masks} == {0, 1}


def test_scores_tell_how_far_a_mask_agrees(photos: Path, weights: Path, tmp_path: Path) -> None:
    """Of a head's with the seeded mask; of the seeded one as the command tells."""
    model = dino_cli.load_model(weights=weights, heads=2, device="cpu", precision="fp32")
    with Image.open(photos / "a/1.png") as image:
        picture = np.asarray(image.resize((64, 64)))
    Image.fromarray(picture).save(tmp_path / "p.png")
    arguments = [
        "attention", tmp_path / "p.png", "-o", tmp_path / "out", "--weights", weights, "--heads", 2,
        "--device", "cpu", "--precision", "fp32", "--image-size", 64, "--masks", "seeded", "--json",
    ]  # fmt: skip
    (told,) = json.loads(CliRunner().invoke(app, list(map(str, arguments))).stdout)["images"]
    options: Any = {"image_size": "64", "refine": "none"}
    (seeded,) = dino_cli.attention_masks(picture, model, **options)
    assert seeded.score == pytest.approx(told["score"], abs=1e-4)
    for head in (0, 1, "mean"):
        (one,) = dino_cli.attention_masks(picture, model, masks="attention", head=head, **options)
        both, any_ = (one.mask & seeded.mask).sum(), (one.mask | seeded.mask).sum()
        assert one.score == pytest.approx(both / any_)


def test_pictures_of_one_size_go_through_the_network_together(
    photos: Path, model: dino_cli.Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dino_cli.library import masks as library

    sizes = []
    real = library.look_at

    def noted(plan: Any, group: Any) -> Any:
        sizes.append(len(group))
        return real(plan, group)

    monkeypatch.setattr(library, "look_at", noted)
    rng = np.random.default_rng(0)
    shapes = [(64, 64), (64, 96), (64, 64), (64, 96), (64, 64)]
    pictures = [rng.integers(0, 255, (*shape, 3), np.uint8) for shape in shapes]
    found = dino_cli.attention_masks(pictures, model, image_size="64", batch_size=3)
    assert sorted(sizes) == [2, 3]
    assert [one.mask.shape for one in found] == shapes
    for picture, one in zip(pictures, found, strict=True):
        (alone,) = dino_cli.attention_masks(picture, model, image_size="64")
        np.testing.assert_allclose(one.attention, alone.attention, atol=1e-5)

    together = dino_cli.embed(pictures, model, image_size="64")
    for picture, vector in zip(pictures, together.vectors, strict=True):
        alone_vector = dino_cli.embed(picture, model, image_size="64").vectors[0]
        np.testing.assert_allclose(vector, alone_vector, atol=1e-4)
