"""`dino eval copies` through the command line, on a small folder in the layout of Copydays."""

import csv
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from golden_files import Golden, eval_golden_folder
from in_process import answer, refusal
from PIL import Image, ImageFilter
from safetensors.torch import load_file
from typer.testing import CliRunner, Result

from dino_cli.cli.app import app
from dino_cli.core.network.architecture import VitArchitecture
from dino_cli.core.network.vit import build_vit
from dino_cli.core.pca.moments import Moments
from dino_cli.tasks.eval.copies import run as task

CPU = ("--device", "cpu")
SIDE = 32


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["eval", "copies", *map(str, arguments)])


def measured(*arguments: object) -> dict[str, Any]:
    return answer("eval", "copies", *arguments, *CPU)  # type: ignore[no-any-return]


def fails(code: int, *arguments: object) -> str:
    return refusal(code, "eval", "copies", *arguments, *CPU)


def noise(seed: int) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return Image.fromarray(pixels).resize((80, 60), Image.Resampling.BICUBIC)


@pytest.fixture
def copydays(tmp_path: Path) -> Path:
    """Five originals; strong copies of the second (twice) and fourth; two other kinds."""
    root = tmp_path / "copydays"
    kinds = ("original", "strong", "jpegqual/3", "jpegqual/15", "crops/50")
    for name in (*kinds, "../others", "../white"):
        (root / name).mkdir(parents=True)
    for i in range(5):
        image, name = noise(i), f"20{i}000.png"
        image.save(root / "original" / name)
        image.save(root / "jpegqual/3" / f"20{i}000.jpg", quality=3)
        image.save(root / "jpegqual/15" / f"20{i}000.jpg", quality=15)
        image.crop((10, 8, 75, 55)).save(root / "crops/50" / name)
    for name, source in (("201001", 1), ("201002", 1), ("203001", 3)):
        noise(source).filter(ImageFilter.GaussianBlur(9)).rotate(20).save(
            root / "strong" / f"{name}.png"
        )
    for i in range(30):
        noise(100 + i).filter(ImageFilter.GaussianBlur(i % 7)).save(
            tmp_path / "others" / f"{i}.png"
        )
        noise(200 + i).save(tmp_path / "white" / f"{i}.png")
    (root / "README.txt").write_text("no block")
    return root


def features(weights: Path, folder: Path) -> torch.Tensor:
    """One by one: stretched, CLS and the fourth-power mean of the patches."""
    net = build_vit(VitArchitecture(width=64, depth=2, heads=1, patch_size=16, grid=(14, 14)))
    net.load_state_dict(load_file(weights))
    net.eval()
    found = []
    for path in sorted(folder.glob("*.*")):
        image = Image.open(path).convert("RGB").resize((SIDE, SIDE), Image.Resampling.BICUBIC)
        x = torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 255
        x = (x - torch.tensor([0.485, 0.456, 0.406])[:, None, None]) / torch.tensor(
            [0.229, 0.224, 0.225]
        )[:, None, None]
        with torch.inference_mode():
            tokens = net.forward_features(x[None])[0]
        gem = tokens[1:].clamp(min=1e-6).double().pow(4).mean(dim=0).pow(0.25)
        found.append(torch.cat([tokens[0].double(), gem]))
    return torch.stack(found)


def expected(weights: Path, root: Path, white: bool) -> dict[str, list[int]]:
    """Rank of each copy's original, from 0, for every block."""
    database = torch.cat(
        [features(weights, root / "original"), features(weights, root.parent / "others")]
    )
    transform = torch.Tensor.double
    if white:
        learned = features(weights, root.parent / "white")
        values, axes = np.linalg.eigh((learned.T @ learned / len(learned)).numpy())
        values = np.maximum(values, 1e-5 * values.max())
        matrix, mean = torch.from_numpy(axes / np.sqrt(values)), learned.mean(dim=0)

        def transform(x):
            return (x - mean) @ matrix

    database = F.normalize(transform(database), dim=1)
    ranks = {}
    for block in ("original", "strong", "jpegqual/3", "jpegqual/15", "crops/50"):
        queries = F.normalize(transform(features(weights, root / block)), dim=1)
        order = (queries @ database.T).argsort(dim=1, descending=True).tolist()
        own = [1, 1, 3] if block == "strong" else range(5)
        ranks[block] = [one.index(i) for one, i in zip(order, own, strict=True)]
    return ranks


def precision(ranks: list[int]) -> float:
    """With one original, the mean of 0 (or 1 at the top) and 1 / rank, halved."""
    return float(np.mean([1.0 if r == 0 else 0.5 / (r + 1) if r < 20 else 0.0 for r in ranks]))


def test_as_written_down(copydays: Path, tiny_weights: Path, tmp_path: Path) -> None:
    others, white = tmp_path / "others", tmp_path / "white"
    out = tmp_path / "out"
    model = ("--weights", tiny_weights, "--image-size", SIDE)
    result = measured(copydays, *model, "--distractors", others, "--whitening", white, "-o", out)
    ranks, plain = (expected(tiny_weights, copydays, white) for white in (True, False))
    blocks = ["original", "strong", "crops/50", "jpegqual/3", "jpegqual/15"]
    assert list(result["map"]) == blocks
    assert result["map"] == pytest.approx({b: precision(ranks[b]) for b in blocks})
    assert result["map_without_whitening"] == pytest.approx(
        {b: precision(plain[b]) for b in blocks}
    )
    assert max(max(one) for one in plain.values()) > 0  # something was hard to find
    assert (result["queries"], result["database"]) == (23, 35)
    assert (result["distractors"], result["whitening"]) == (30, 30)
    assert sorted(os.listdir(out)) == ["index.html", "queries.csv", "result.json"]
    with (out / "queries.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [int(r["rank"]) - 1 for r in rows if r["block"] == "strong"] == ranks["strong"]
    assert Path(rows[6]["original"]).name == "201000.png"

    # Six copies, evenly from the first found to the last, each with its original on the page.
    shown = sorted(rank + 1 for block in blocks[1:] for rank in ranks[block])
    last = len(shown) - 1
    assert [one["rank"] for one in result["examples"]] == [
        shown[round(i * last / 5)] for i in range(6)
    ]
    listed = {(r["block"], r["path"], r["original"], int(r["rank"])) for r in rows}
    told = {
        tuple(one[k] for k in ("block", "path", "original", "rank")) for one in result["examples"]
    }
    assert told < listed
    assert (out / "index.html").read_text().count("<img") == 12

    only = measured(copydays, *model, "--distractors", others)
    assert only["map"] == pytest.approx(result["map_without_whitening"])
    assert "map_without_whitening" not in only
    assert measured(copydays, *model)["database"] == 5
    lines = run(copydays, *model, *CPU).stdout.splitlines()
    assert lines[0] == "block\tmAP %"
    assert "use --overwrite" in fails(1, copydays, *model, "-o", out)


def test_other_folders_inside_are_no_blocks(copydays: Path, tiny_weights: Path) -> None:
    model = ("--weights", tiny_weights, "--image-size", SIDE)
    inside = copydays / "others"
    (copydays.parent / "others").rename(inside)
    assert "'others' has 30 images, but there are 5 originals" in fails(1, copydays, *model)
    assert list(measured(copydays, *model, "--distractors", inside)["map"])[:2] == [
        "original", "strong",
    ]  # fmt: skip


def test_unreadable_images(copydays: Path, tiny_weights: Path, tmp_path: Path) -> None:
    model = ("--weights", tiny_weights, "--image-size", SIDE)
    others = tmp_path / "others"
    (others / "3.png").write_bytes(b"")
    with_others = (copydays, *model, "--distractors", others)
    result = run(*with_others, *CPU, "--json")
    assert "3.png': empty file" in result.stderr
    assert json.loads(result.stdout)["database"] == 34
    assert "3.png': empty file" in fails(1, *with_others, "--strict")
    (copydays / "strong" / "201001.png").write_bytes(b"")
    assert "201001.png': empty file; repair it" in fails(1, copydays, *model)


def test_misuse_is_a_sentence(copydays: Path, tiny_weights: Path, tmp_path: Path) -> None:
    model = ("--weights", tiny_weights, "--image-size", SIDE)
    out = ("-o", tmp_path / "out")
    before = sorted(os.listdir(tmp_path))
    assert "no folder 'original'" in fails(1, tmp_path, *model, *out)
    assert "no folder 'original'" in fails(1, tmp_path / "gone", *model, *out)
    assert "'gone' does not exist" in fails(1, copydays, *model, *out, "--whitening", "gone")
    assert "--image-size 0 is not" in fails(2, copydays, *model, *out, "--image-size", 0)
    assert "smaller than one patch of 16" in fails(2, copydays, *model, *out, "--image-size", 9)
    (copydays / "strong" / "999001.png").write_bytes(b"")
    assert "no original's name begins with '9990'" in fails(1, copydays, *model, *out)
    (copydays / "strong" / "999001.png").unlink()
    (copydays / "crops/50/200000.png").unlink()
    assert "'crops/50' has 4 images, but there are 5" in fails(1, copydays, *model, *out)
    assert sorted(os.listdir(tmp_path)) == before


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("golden")
    with np.load(eval_golden_folder() / "cli_files.npz") as files:
        for name in files.files:
            if name.split("/")[0] in ("copydays", "distractors", "whitening"):
                path = root / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(files[name].tobytes())
    return root


@pytest.mark.golden
def test_whole_command_as_the_original(unpacked: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    golden = Golden(eval_golden_folder())
    facts, files = golden.json("cli"), golden.tensors("cli")
    seen: dict[str, list[torch.Tensor]] = {"queries": [], "distractors": [], "whitening": []}
    real_add = Moments.add

    class Noted(task.CopyRanks):
        def __init__(self, descriptors, *rest):
            seen["queries"] = [descriptors]
            seen["distractors"] = []
            super().__init__(descriptors, *rest)

        def add(self, distractors):
            seen["distractors"].append(distractors)
            super().add(distractors)

    def learned(self, batch):
        seen["whitening"].append(batch)
        real_add(self, batch)

    monkeypatch.setattr(task, "CopyRanks", Noted)
    monkeypatch.setattr(Moments, "add", learned)
    weights = eval_golden_folder() / facts["model"]["file"]
    options = ["--weights", weights, "--heads", facts["model"]["heads"]]
    options += ["--image-size", facts["copies"]["imsize"], "--batch-size", 64]
    options += ["--distractors", unpacked / "distractors"]
    result = measured(unpacked / "copydays", *options, "--whitening", unpacked / "whitening")
    for name, batches in seen.items():
        once = batches[::2] if name == "distractors" else batches  # for both rankings
        expected = files[f"copies.{name}"]
        torch.testing.assert_close(torch.cat(once), expected, atol=1e-4, rtol=0)
    assert result["map"] == pytest.approx(facts["copies"]["map_whitening"], abs=1e-6)
    plain = result["map_without_whitening"]
    assert plain == pytest.approx(facts["copies"]["map_no_whitening"], abs=1e-6)
