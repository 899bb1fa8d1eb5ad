"""`import dino_cli`: the same results as the commands, on values of Python."""

import inspect
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from feature_files import clusters, write_index
from PIL import Image
from safetensors.torch import save_file
from typer.testing import CliRunner

import dino_cli
from dino_cli.cli.app import app
from dino_cli.core.network.architecture import VitArchitecture
from dino_cli.core.network.vit import build_vit
from dino_cli.errors import TaskError, UsageError
from dino_cli.store.embeddings.reading import read_embeddings

PUBLIC = {
    "Features", "Masks", "Model", "Neighbors", "attention_masks", "embed", "knn", "load_model",
}  # fmt: skip


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    net = build_vit(VitArchitecture(width=64, depth=2, heads=2, patch_size=16, grid=(4, 4)))
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    tensors = {k: v * (8 if v.ndim > 1 else 1) for k, v in net.state_dict().items()}
    save_file(tensors, path)
    return path


@pytest.fixture(scope="module")
def model(weights: Path) -> dino_cli.Model:
    return dino_cli.load_model(weights=weights, heads=2, device="cpu", precision="fp32")


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for i, (name, colour) in enumerate({"a": (200, 40, 40), "b": (30, 60, 210)}.items()):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for j in range(3):
            noise = np.random.default_rng(10 * i + j).normal(0, 25, (70, 90 - j, 3))
            pixels = np.clip(noise + colour, 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(tmp_path / "photos" / name / f"{j}.png")
    return tmp_path / "photos"


def test_the_surface() -> None:
    assert set(dino_cli.__all__) == PUBLIC | {"__version__"}
    assert set(dir(dino_cli)) >= PUBLIC
    for name in PUBLIC:
        assert inspect.getdoc(getattr(dino_cli, name))
    for name in ("attention_masks", "embed", "knn", "load_model"):
        signature = inspect.signature(getattr(dino_cli, name))
        assert signature.return_annotation is not inspect.Signature.empty
        assert all(p.annotation is not p.empty for p in signature.parameters.values())
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = dino_cli.nothing


def test_the_import_costs_nothing() -> None:
    code = "import sys, dino_cli; print([m for m in ('torch', 'numpy', 'PIL') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


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


def test_load_model_asks_for_all_that_it_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dino_cli.library.model.open_model", lambda options, _: options)
    given = {
        "weights": Path("w.pth"), "device": "cuda:1", "precision": "fp16", "arch": "vit_small",
        "patch_size": 8, "heads": 3, "checkpoint_key": "student", "offline": True,
    }  # fmt: skip
    options: Any = dino_cli.load_model("dino_vits8", **given)  # type: ignore[arg-type]
    assert {name: getattr(options, name) for name in given} == given
    assert options.model == "dino_vits8"


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


def test_knn_equals_the_command(photos: Path, model: dino_cli.Model) -> None:
    features = dino_cli.embed(photos, model)
    found = dino_cli.knn(features, k=2)
    unit = features.vectors / np.linalg.norm(features.vectors, axis=1, keepdims=True)
    cosines = unit @ unit.T
    np.fill_diagonal(cosines, -np.inf)
    np.testing.assert_array_equal(found.rows, np.argsort(-cosines, axis=1, kind="stable")[:, :2])
    np.testing.assert_allclose(
        found.similarities, np.take_along_axis(cosines, found.rows, 1), atol=1e-6
    )
    assert found.predicted == features.labels
    assert found.classes == ["a", "b"]
    assert (found.probabilities > 0.5).all()

    plain = dino_cli.knn(features.vectors, features.vectors[:1], k=3, labels=list("xxxyyy"))
    assert plain.predicted == ["x"]
    assert plain.rows[0, 0] == 0
    unknown = dino_cli.knn(
        features.vectors, -features.vectors[:1], labels=list("xxxyyy"), min_similarity=0.9
    )
    assert (unknown.predicted, unknown.probabilities.tolist()) == ([""], [0.0])
    assert dino_cli.knn(features.vectors, k=1).predicted == [""] * 6  # no labels, only rows

    votes = np.exp(np.sort(cosines, axis=1)[:, ::-1][:, :5].astype(np.float64) / 0.5)
    same = np.array(features.labels)[np.argsort(-cosines, axis=1)[:, :5]]
    hot = dino_cli.knn(features, k=5, temperature=0.5)
    share = [
        votes[i, same[i] == name].sum() / votes[i].sum() for i, name in enumerate(hot.predicted)
    ]
    np.testing.assert_allclose(hot.probabilities, share, atol=1e-4)


def test_knn_of_files(tmp_path: Path) -> None:
    vectors, labels = clusters(30, 1)
    index = write_index(tmp_path / "i.npy", vectors, labels)
    other = write_index(tmp_path / "o.npy", vectors, labels, weights_sha256="cd" * 32)
    test = write_index(tmp_path / "q.npy", *clusters(10, 2))
    found = dino_cli.knn(index, str(test), k=5)
    assert (
        found.predicted == dino_cli.knn(vectors, clusters(10, 2)[0], labels=labels, k=5).predicted
    )
    with pytest.raises(TaskError, match=r"made with m \(weights abab.*, but '.*o\.npy' with"):
        dino_cli.knn(index, other)


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


BLANK = np.zeros((64, 64, 3), np.uint8)


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


@pytest.mark.slow
def test_the_readme_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The lines of Python in the README, on drawn images as it says before."""
    readme = (Path(__file__).parent.parent / "README.md").read_text()
    blocks = re.findall(r"^```python\n(.*?)^```", readme, re.MULTILINE | re.DOTALL)
    blocks = [block for block in blocks if "dino_cli" in block]  # the others are for viewers
    assert blocks
    monkeypatch.chdir(tmp_path)
    draw = ["demo", "--images", "drawn", "--count", "40", "--seed", "7"]
    assert CliRunner().invoke(app, draw).exit_code == 0
    for block in blocks:
        exec(compile(block, "README.md", "exec"), {})
