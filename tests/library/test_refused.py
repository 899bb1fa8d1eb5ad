"""What the calls of Python refuse, by errors of ours."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import dino_cli
from dino_cli.errors import TaskError, UsageError

BLANK = np.zeros((64, 64, 3), np.uint8)


def test_errors_are_ours(photos: Path, model: dino_cli.Model) -> None:
    with pytest.raises(UsageError, match="'nose' is none of the features"):
        dino_cli.embed(photos, model, features="nose")
    with pytest.raises(UsageError, match="a picture is float64"):
        dino_cli.embed([np.zeros((4, 4, 3))], model)
    with pytest.raises(UsageError, match=r"a picture is uint8 \(4, 4, 4\)"):
        dino_cli.embed([np.zeros((4, 4, 4), np.uint8)], model)
    for call in (dino_cli.embed, dino_cli.attention_masks):
        with pytest.raises(UsageError, match="mixed, 1 and 1; give one kind at a time"):
            call([photos, Image.new("RGB", (9, 9))], model)
        with pytest.raises(UsageError, match="no pictures given"):
            call([], model)
    with pytest.raises(TaskError, match=r"picture 0: .* are too many; stretch it with image_size="):
        dino_cli.attention_masks(Image.new("RGB", (60_000, 2)), model)
    with pytest.raises(UsageError, match=r"picture 1: .*; leave it out"):
        dino_cli.embed([BLANK, np.zeros((2, 60_000, 3), np.uint8)], model, image_size="64")
    with pytest.raises(UsageError, match="batch size 0 is not a positive number"):
        dino_cli.attention_masks(BLANK, model, batch_size=0)
    with pytest.raises(TaskError, match="does not exist"):
        dino_cli.embed("nowhere", model)
    (photos / "bad.png").write_bytes(b"")
    with pytest.raises(TaskError, match=r"bad\.png': empty file"):
        dino_cli.attention_masks(photos / "bad.png", model)
    with pytest.raises(UsageError, match="5 labels for 6 rows"):
        dino_cli.knn(np.eye(6), labels=list("abcde"))


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"features": "cls,patch", "image_size": "64"}, r"grids of \(4, 4, 64\) and \(4, 8, 64\)"),
        ({"batch_size": 0}, "batch size 0 is not a positive number"),
    ],
)
def test_options_of_embed_that_cannot_be(
    model: dino_cli.Model, options: dict[str, Any], says: str
) -> None:
    with pytest.raises(UsageError, match=says):
        dino_cli.embed([BLANK, BLANK.repeat(2, axis=1)], model, **options)


@pytest.mark.parametrize("nothing", [BLANK[:0], Image.new("RGB", (0, 5))])
def test_pictures_without_pixels(model: dino_cli.Model, nothing: Any) -> None:
    for call in (dino_cli.embed, dino_cli.attention_masks):
        with pytest.raises(UsageError, match="has no pixels"):
            call([nothing], model)


def test_choices_that_there_are_not(model: dino_cli.Model, weights: Path) -> None:
    """Such words passed, and something else was computed."""
    for options in ({"masks": "seed"}, {"refine": "fine"}):
        with pytest.raises(UsageError, match="is none of the choices; use one of"):
            dino_cli.attention_masks(BLANK, model, **options)  # type: ignore[arg-type]
    for head in ("all", "0,1"):
        with pytest.raises(UsageError, match="is not one head"):
            dino_cli.attention_masks(BLANK, model, masks="attention", head=head)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="checkpoint_key='pupil' is none of the choices"):
        dino_cli.load_model(weights=weights, checkpoint_key="pupil")  # type: ignore[arg-type]


def test_features_that_cannot_be_compared() -> None:
    with pytest.raises(UsageError, match="queries of 3 numbers each, an index of 4"):
        dino_cli.knn(np.eye(4), np.eye(3))
    for index, queries in ((np.full((4, 4), np.nan), None), (np.eye(4), np.full((2, 4), np.inf))):
        with pytest.raises(TaskError, match="row 0 is not finite"):
            dino_cli.knn(index, queries)
    with pytest.raises(TaskError, match="row 2 is not finite"):
        dino_cli.knn(np.array([[1, 0], [0, 1], [np.nan, 0], [1, 1]]))
    with pytest.raises(UsageError, match=r"features of shape \(4, 2, 2\); give vectors"):
        dino_cli.knn(np.ones((4, 2, 2)))
    with pytest.raises(UsageError, match="an index of 1 rows; use one of two rows or more"):
        dino_cli.knn(np.ones((1, 2)))
    with pytest.raises(TaskError, match="no rows of features"):
        dino_cli.knn(np.eye(4), np.empty((0, 4)))
    for impossible in ({"temperature": 0}, {"k": 0}, {"min_similarity": 2}):
        with pytest.raises(UsageError, match="is not a"):
            dino_cli.knn(np.eye(4), **impossible)  # type: ignore[arg-type]
    found = dino_cli.knn(np.eye(4), labels=["a", "a", None, None], k=2)  # type: ignore[list-item]
    assert found.classes == ["a"]
