"""`dino eval linear` and `segmentation` as whole commands against the original's results."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from golden_files import Golden, eval_golden_folder
from typer.testing import CliRunner

from dino_cli.cli.app import app

pytestmark = [
    pytest.mark.golden,
]

GOLDEN = Golden(eval_golden_folder())
MODEL = ["--weights", eval_golden_folder() / "cli_vit.safetensors"]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("golden")
    with np.load(eval_golden_folder() / "cli_files.npz") as packed:
        for name, content in packed.items():
            if name.startswith(("voc/", "imagenet/")):
                path = folder / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content.tobytes())
    return folder


def evaluate(*arguments: object) -> dict:
    fixed = [*MODEL, "--device", "cpu", "--workers", "1", "--json", "--quiet"]
    words = ["eval", *map(str, [*arguments, *fixed])]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


@pytest.mark.parametrize(
    "case", [name for name in GOLDEN.json("cli")["linear"] if name != "classes"]
)
def test_linear_weights_of_the_original(files: Path, tmp_path: Path, case: str) -> None:
    facts, tensors = GOLDEN.json("cli")["linear"], GOLDEN.tensors("cli")
    layer = {
        f"module.linear.{part}": tensors[f"linear.{case}.{part}"] for part in ("weight", "bias")
    }
    torch.save({"epoch": 100, "state_dict": layer, "best_acc": 50.0}, tmp_path / "linear.pth")
    options = ["--n-last-blocks", facts[case]["n_last_blocks"]]
    options += ["--avgpool"] if facts[case]["avgpool"] else ["--no-avgpool"]
    # What is not asked for is read off the width of the weights, where only one thing fits it.
    for asked in (options, []) if GOLDEN.json("cli")["model"]["depth"] > 2 else (options,):
        given = ["--classifier", tmp_path / "linear.pth", *asked]
        result = evaluate("linear", files / "imagenet/val", *given)
        assert result["classes"] == facts["classes"]
        assert result["n_last_blocks"] == facts[case]["n_last_blocks"]
        assert result["top1"] == pytest.approx(facts[case]["acc1"] / 100, abs=1e-6)
        assert result["best_top1"] == result["top1"]
        if "top5" in result:
            assert result["top5"] == pytest.approx(facts[case]["acc5"] / 100, abs=1e-6)
        right = sum(one["images"] * one["top1"] for one in result["per_class"].values())
        assert right / result["images"] == pytest.approx(result["top1"])


@pytest.mark.parametrize("kind", ["SegmentationObject", "SegmentationClass"])
def test_segmentation_of_label_maps(files: Path, tmp_path: Path, kind: str) -> None:
    facts = GOLDEN.json("cli")["segmentation"]
    result = evaluate(
        "segmentation", files / "voc/JPEGImages", files / f"voc/{kind}",
        "--names", files / "voc/ImageSets/Segmentation/val.txt",
        "--image-size", "x".join(map(str, facts["size"])), "--threshold", facts["threshold"],
        "--no-random", "-o", tmp_path / "report",
    )  # fmt: skip
    assert result["images"] == len(facts["images"])
    objects = sum(len(image[kind]["per_object"]) for image in facts["images"].values())
    assert result["objects"] == objects
    assert result["jaccard"]["best"] == pytest.approx(facts["mean"][kind], abs=2e-3)
    rows = (tmp_path / "report/per_image.csv").read_text().splitlines()
    assert rows[0].startswith("path,objects,best,")
    for row in rows[1:]:
        path, _, best = row.split(",")[:3]
        expected = facts["images"][Path(path).stem][kind]["jaccard"]
        assert float(best) == pytest.approx(expected, abs=2e-3)
