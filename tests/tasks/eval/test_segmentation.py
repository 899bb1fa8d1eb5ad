"""`dino eval segmentation` through the command line, on small photos and label maps."""

import base64
import csv
import io
import json
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from typer.testing import CliRunner, Result

from dino_cli.cli.app import app
from dino_cli.config.eval_segmentation import EvalSegmentationConfig
from dino_cli.config.shared import Preprocessing
from dino_cli.core.masks.threshold import threshold_mass
from dino_cli.core.network.architecture import VitArchitecture
from dino_cli.core.network.backbone import Backbone
from dino_cli.core.network.vit import build_vit
from dino_cli.data.preprocess import normalize
from dino_cli.progress import Reporter
from dino_cli.tasks.eval.segmentation.examples import examples

SIDE = 96
COMMON = ["--device", "cpu", "--precision", "fp32", "--image-size", f"{SIDE}x{SIDE}"]
COMMON += ["--workers", 1, "--batch-size", 3]


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["eval", "segmentation", *map(str, [*COMMON, *arguments])])


def evaluate(*arguments: object) -> dict[str, Any]:
    result = run(*arguments, "--json", "-q")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)  # type: ignore[no-any-return]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """photos/<n>.jpg with a bright rectangle each, and masks/<n>.png, white there."""
    for i in range(5):
        random = np.random.default_rng(i)
        photo = random.integers(0, 80, (60, 80, 3), dtype=np.uint8)
        mask = np.zeros((60, 80), np.uint8)
        top, left = int(random.integers(5, 25)), int(random.integers(5, 35))
        mask[top : top + 24, left : left + 30] = 255
        photo[mask > 0] += np.uint8(150)
        for folder, pixels, name in (("photos", photo, f"{i}.jpg"), ("masks", mask, f"{i}.png")):
            (tmp_path / folder).mkdir(exist_ok=True)
            Image.fromarray(pixels).save(tmp_path / folder / name)
    return tmp_path


def slow_jaccard(photo: Path, mask: Path, weights: Path) -> np.ndarray:
    """Overlap of each head's mask with the object, by enlarging the masks; (H + 1,), mean last."""
    net = build_vit(VitArchitecture(width=64, depth=2, heads=1, patch_size=16, grid=(14, 14)))
    net.load_state_dict(load_file(weights))
    image = Image.open(photo).resize((SIDE, SIDE), Image.Resampling.BILINEAR)
    pixels = np.asarray(image).transpose(2, 0, 1)[None].copy()
    x = normalize(torch.from_numpy(pixels), Preprocessing(), torch.device("cpu"))
    heads = Backbone(net).cls_attention(x)[0]
    masks = threshold_mass(torch.cat([heads, heads.mean(0, keepdim=True)]), 0.6).numpy()
    large = np.kron(masks, np.ones((1, 16, 16), bool)).astype(bool)
    truth = np.asarray(Image.open(mask).resize((SIDE, SIDE), Image.Resampling.NEAREST)) > 127
    return np.array([(m & truth).sum() / (m | truth).sum() for m in large])


def test_figures_are_those_of_counted_pixels(data: Path, tiny_weights: Path) -> None:
    out = data / "report"
    result = evaluate(data / "photos", data / "masks", "--weights", tiny_weights, "-o", out)
    expected = np.array(
        [
            slow_jaccard(data / f"photos/{i}.jpg", data / f"masks/{i}.png", tiny_weights)
            for i in range(5)
        ]
    )
    assert result["jaccard"]["best"] == pytest.approx(expected[:, :-1].max(1).mean(), abs=1e-9)
    assert result["jaccard"]["mean"] == pytest.approx(expected[:, -1].mean(), abs=1e-9)
    np.testing.assert_allclose(result["heads"], expected[:, :-1].mean(0))
    kinds = {"best", "mean", "chosen", "seeded", "tokens", "cut", "centre_box", "everything"}
    assert set(result["jaccard"]) == kinds
    assert set(result["guided"]) == kinds - {"centre_box", "everything"}
    assert set(result["corloc"]) == kinds - {"best"}
    assert set(result["random"]) == {"best", "mean"}
    truths = [np.asarray(Image.open(data / f"masks/{i}.png")) > 0 for i in range(5)]
    assert result["jaccard"]["everything"] == pytest.approx(
        np.mean([truth.mean() for truth in truths]), abs=0.01
    )
    assert (result["images"], result["objects"], result["skipped"]) == (5, 5, 0)
    with (out / "per_image.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [Path(row["path"]).name for row in rows] == [f"{i}.jpg" for i in range(5)]
    for row, one in zip(rows, expected, strict=True):
        assert float(row["best"]) == pytest.approx(one[:-1].max(), abs=1e-5)
    page = (out / "index.html").read_text()
    assert "Supervised ViT-S/16" in page
    assert "45.9" in page


def test_rows_are_of_the_masks_that_dino_attention_makes(data: Path, tiny_weights: Path) -> None:
    """The option in a row's name makes masks of the row's overlap, in photos of the asked size."""
    for folder, how in (("photos", Image.Resampling.BILINEAR), ("masks", Image.Resampling.NEAREST)):
        for path in sorted((data / folder).iterdir()):
            image = Image.open(path).resize((SIDE, SIDE), how)
            path.unlink()
            image.save(path.with_suffix(".png"))
    folders, model = (data / "photos", data / "masks"), ["--weights", tiny_weights]
    result = evaluate(*folders, *model, "--no-random")
    shown = run(*folders, *model, "--no-random").stdout
    named = re.findall(r"^.* \((--\w+) (\w+)\)\t", shown, re.MULTILINE)
    assert [name for _, name in named] == ["best", "mean", "seeded", "tokens", "cut"]
    for flag, name in named:
        for refine, key in (("none", "jaccard"), ("guided", "guided")):
            out = data / f"{name}-{refine}"
            words = ["attention", folders[0], flag, name, "--refine", refine, "-o", out, *model]
            words += [*COMMON[:6], "-q"]
            assert CliRunner().invoke(app, list(map(str, words))).exit_code == 0
            overlaps = []
            for i in range(5):
                mask = np.asarray(Image.open(out / f"{i}/mask_{name}.png")) > 0
                truth = np.asarray(Image.open(data / f"masks/{i}.png")) > 0
                overlaps.append((mask & truth).sum() / (mask | truth).sum())
            kind = "chosen" if name == "best" else name
            assert result[key][kind] == pytest.approx(np.mean(overlaps), abs=1e-9)


def test_the_page_shows_photos_from_the_best_to_the_worst(data: Path, tiny_weights: Path) -> None:
    out = data / "report"
    result = evaluate(data / "photos", data / "masks", "--weights", tiny_weights, "-o", out)
    with (out / "per_image.csv").open() as file:
        best = {row["path"]: float(row["best"]) for row in csv.DictReader(file)}
    order = sorted(best, key=lambda path: -best[path])
    assert [one["path"] for one in result["examples"]] == order
    assert [one["jaccard"] for one in result["examples"]] == pytest.approx(
        [best[path] for path in order], abs=1e-6
    )
    page = (out / "index.html").read_text()
    rows = re.findall(r'<article class="sample"><p>(.*?)</p>(.*?)</article>', page, re.DOTALL)
    assert [name for name, _ in rows] == [Path(path).name for path in order]
    for path, (_, row) in zip(order, rows, strict=True):
        pictures = [_pixels(uri) for uri in re.findall(r'src="(data:[^"]*)"', row)]
        assert len(pictures) == 7
        photo, truth = pictures[:2]
        mask = np.asarray(Image.open(data / "masks" / f"{Path(path).stem}.png"))
        there = np.asarray(Image.fromarray(mask).resize(photo.shape[1::-1])) > 127
        # The object stays as it is, what is around it is dark; JPEG blurs the border.
        assert np.abs(photo[there].mean() - truth[there].mean()) < 12
        assert truth[~there].mean() < 0.5 * photo[~there].mean()


def _pixels(uri: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))), float)


def test_a_photo_that_is_gone_leaves_the_page_without_it(data: Path, tiny_weights: Path) -> None:
    config = EvalSegmentationConfig(
        images=data / "photos", masks=data / "masks", weights=tiny_weights, image_size="96",
        device="cpu", workers=1,
    )  # fmt: skip
    named = [
        {"path": str(data / f"photos/{name}"), "labels": str(data / f"masks/{i}.png")}
        for i, name in enumerate(("0.jpg", "gone.jpg"))
    ]
    shown = examples(config, {"examples": named}, Reporter())
    assert [one.title for one in shown] == ["0.jpg"]


def test_the_truth_as_a_mask_is_found(data: Path, tiny_weights: Path, make_weights: Any) -> None:
    """Everything is the object: the whole image and its box fit it, the centred box covers .36."""
    for path in (data / "masks").iterdir():
        Image.fromarray(np.full((60, 80), 255, np.uint8)).save(path)
    other = make_weights(data / "other.safetensors", seed=4)
    result = evaluate(
        data / "photos", data / "masks", "--weights", tiny_weights, "--no-random",
        "--refine", "none", "--supervised", other,
    )  # fmt: skip
    assert result["jaccard"]["everything"] == 1
    assert result["corloc"]["everything"] == 1
    assert result["jaccard"]["centre_box"] == pytest.approx(0.36, abs=0.02)
    assert result["corloc"]["centre_box"] == 0
    assert "random" not in result
    assert "guided" not in result
    own = evaluate(
        data / "photos", data / "masks", "--weights", other, "--no-random", "--refine", "none"
    )
    assert result["supervised"]["best"] == own["jaccard"]["best"] != result["jaccard"]["best"]


def test_several_objects_void_and_names(data: Path, tiny_weights: Path) -> None:
    labels = np.zeros((60, 80), np.uint8)
    labels[5:20, 5:20], labels[30:50, 40:70], labels[20:30] = 3, 9, 255
    for i in range(3):
        image = Image.fromarray(labels if i else np.full_like(labels, 255))
        image.putpalette([0] * 768)
        image.save(data / f"masks/{i}.png")
    (data / "val.txt").write_text("0\n1\n2\n")
    result = run(
        data / "photos", data / "masks", "--weights", tiny_weights, "--names", data / "val.txt",
        "--no-random",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert "1 label map has no object; left out" in result.stderr
    assert "mask\tJaccard %\tto edges %\tCorLoc %" in result.stdout
    told = evaluate(
        data / "photos", data / "masks", "--weights", tiny_weights, "--names", data / "val.txt",
        "--no-random",
    )  # fmt: skip
    assert (told["images"], told["objects"]) == (2, 4)


def test_listed_names_may_hold_dots_and_spaces(data: Path, tiny_weights: Path) -> None:
    for old, new in (("0", "a.v1"), ("1", "b c")):
        (data / f"photos/{old}.jpg").rename(data / f"photos/{new}.jpg")
        (data / f"masks/{old}.png").rename(data / f"masks/{new}.png")
    (data / "val.txt").write_text("a.v1\nb c\n2.jpg 1\n")
    told = evaluate(
        data / "photos", data / "masks", "--weights", tiny_weights, "--names", data / "val.txt",
        "--no-random",
    )  # fmt: skip
    assert told["images"] == 3


def test_what_cannot_be_used_is_skipped_and_told(data: Path, tiny_weights: Path) -> None:
    (data / "photos/0.jpg").write_bytes(b"")
    (data / "masks/1.png").write_bytes(b"no picture")
    Image.fromarray(np.full((80, 60), 255, np.uint8)).save(data / "masks/2.png")
    model = ["--weights", tiny_weights, "--no-random"]
    result = run(data / "photos", data / "masks", *model)
    assert result.exit_code == 0, result.output
    assert "and 2 more" in result.stderr
    assert evaluate(data / "photos", data / "masks", *model)["skipped"] == 3
    strict = run(data / "photos", data / "masks", *model, "--strict")
    assert strict.exit_code == 1
    assert "repair it or leave out --strict" in strict.stderr


def test_misuse_is_a_sentence(data: Path, tiny_weights: Path) -> None:
    photos, masks = data / "photos", data / "masks"

    def fails(code: int, *arguments: object) -> str:
        result = run(*arguments, "--weights", tiny_weights)
        assert result.exit_code == code, result.output
        assert result.stdout == ""
        assert "Traceback" not in result.stderr
        return result.stderr.splitlines()[-1]

    before = sorted(os.listdir(data))
    assert "does not exist" in fails(1, photos, data / "gone")
    assert "threshold 0 is not" in fails(2, photos, masks, "--threshold", 0)
    assert "batch size 0" in fails(2, photos, masks, "--batch-size", 0)
    assert "smaller than one patch" in fails(2, photos, masks, "--image-size", "8x8")
    assert "'big' is not a size" in fails(2, photos, masks, "--image-size", "big")
    assert "cannot read" in fails(1, photos, masks, "--names", data / "gone.txt")
    (data / "names.txt").write_text("nobody\n")
    assert "has a label map" in fails(1, photos, masks, "--names", data / "names.txt")
    assert "does not exist" in fails(1, photos, masks, "-o", data / "no/such")
    other = ["--supervised", "dino_vits8", "--offline"]
    assert "'dino_vits8' is not on this disk" in fails(1, photos, masks, *other)
    for path in masks.iterdir():
        Image.fromarray(np.zeros((60, 80), np.uint8)).save(path)
    assert "no label map has an object" in fails(1, photos, masks)
    assert sorted(os.listdir(data)) == sorted([*before, "names.txt"])


def test_a_report_of_names_that_are_no_utf8_is_json_for_every_program(
    data: Path, tiny_weights: Path
) -> None:
    odd = os.fsdecode(b"caf\xe9")
    for folder, suffix in (("photos", "jpg"), ("masks", "png")):
        (data / folder / f"0.{suffix}").rename(data / folder / f"{odd}.{suffix}")
    out = data / "report"
    evaluate(data / "photos", data / "masks", "--weights", tiny_weights, "--no-random", "-o", out)
    kept = json.loads((out / "result.json").read_bytes().decode("utf-8"))
    assert f"{odd}.jpg" in {Path(one["path"]).name for one in kept["examples"]}
    (out / "index.html").read_bytes().decode("utf-8")
