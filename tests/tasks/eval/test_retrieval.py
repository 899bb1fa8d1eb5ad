"""`dino eval retrieval` through the command line: landmarks, and folders with classes."""

import csv
import json
import os
import pickle
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from golden_files import Golden, eval_golden_folder
from in_process import answer, refusal
from PIL import Image
from safetensors.torch import load_file
from typer.testing import CliRunner, Result

from dino_cli.cli.app import app
from dino_cli.core.network.architecture import VitArchitecture
from dino_cli.core.network.backbone import Backbone
from dino_cli.core.network.vit import build_vit
from dino_cli.tasks.eval.retrieval import run as task

CPU = ("--device", "cpu")
SIZE = 48


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["eval", "retrieval", *map(str, arguments)])


def measured(*arguments: object) -> dict[str, Any]:
    return answer("eval", "retrieval", *arguments, *CPU)  # type: ignore[no-any-return]


def fails(code: int, *arguments: object) -> str:
    return refusal(code, "eval", "retrieval", *arguments, *CPU)


@pytest.fixture
def landmarks(tmp_path: Path, photos: Path) -> Path:
    """Two queries and ten images; image i shows what query 0 shows if i is even."""
    root = tmp_path / "town"
    (root / "jpg").mkdir(parents=True)
    paths = sorted(photos.glob("*/*.png"))
    names = [f"query{i}.1" if i < 2 else f"im.{i - 2}" for i in range(12)]
    for name, path in zip(names, paths, strict=True):
        with Image.open(path) as image:
            image.resize((3 * image.width, 2 * image.height)).save(root / "jpg" / f"{name}.jpg")
    truth = {
        "qimlist": names[:2],
        "imlist": names[2:],
        "gnd": [
            {"bbx": [0, 0, 9, 9], "easy": [0, 4], "hard": [2, 6], "junk": [8]},
            {"bbx": [0, 0, 9, 9], "easy": [], "hard": [5], "junk": []},
        ],
    }
    (root / "gnd_town.json").write_text(json.dumps(truth))
    return root


def slow_precision(order: list[int], positives: list[int], ignored: list[int]) -> float:
    left = [i for i in order if i not in ignored]
    total, found = 0.0, 0
    for rank, image in enumerate(left):
        if image in positives:
            before = found / rank if rank else 1.0
            found += 1
            total += (before + found / (rank + 1)) / 2
    return total / len(positives)


def features(weights: Path, paths: list[Path]) -> torch.Tensor:
    """One by one: Pillow's thumbnail, whole patches, CLS of unit length."""
    net = build_vit(VitArchitecture(width=64, depth=2, heads=1, patch_size=16, grid=(14, 14)))
    net.load_state_dict(load_file(weights))
    found = []
    for path in paths:
        image = Image.open(path).convert("RGB")
        image.thumbnail((SIZE, SIZE), Image.Resampling.LANCZOS)
        x = torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 255
        x = (x - torch.tensor([0.485, 0.456, 0.406])[:, None, None]) / torch.tensor(
            [0.229, 0.224, 0.225]
        )[:, None, None]
        h, w = (side // 16 * 16 for side in x.shape[1:])
        found.append(Backbone(net).features(x[None, :, :h, :w])[0])
    return F.normalize(torch.stack(found), dim=1)


def test_landmarks_as_written_down(landmarks: Path, tiny_weights: Path, tmp_path: Path) -> None:
    model = ("--weights", tiny_weights, "--image-size", SIZE)
    out = tmp_path / "out"
    result = measured(landmarks, *model, "-o", out)
    truth = json.loads((landmarks / "gnd_town.json").read_text())
    queries, images = (
        features(tiny_weights, [landmarks / "jpg" / f"{name}.jpg" for name in truth[key]])
        for key in ("qimlist", "imlist")
    )
    orders = (queries @ images.T).argsort(dim=1, descending=True).tolist()
    first = truth["gnd"][0]
    easy = slow_precision(orders[0], first["easy"], first["junk"] + first["hard"])
    medium = [
        slow_precision(order, one["easy"] + one["hard"], one["junk"])
        for order, one in zip(orders, truth["gnd"], strict=True)
    ]
    assert result["easy"]["map"] == pytest.approx(easy)  # the second query has no easy image
    assert result["medium"]["map"] == pytest.approx(np.mean(medium))
    assert (result["easy"]["queries"], result["medium"]["queries"]) == (1, 2)
    for one in result["examples"]:
        query = truth["qimlist"].index(Path(one["path"]).stem)
        judged = truth["gnd"][query]
        assert one["average_precision"] == pytest.approx(medium[query])
        places = [truth["imlist"].index(Path(near["path"]).stem) for near in one["nearest"]]
        assert places == orders[query][:5]
        assert [near["relevant"] for near in one["nearest"]] == [
            None if i in judged["junk"] else i in judged["easy"] + judged["hard"] for i in places
        ]
    assert set(result["hard"]) == {"map", "mp@1", "mp@5", "mp@10", "queries"}
    assert sorted(os.listdir(out)) == ["index.html", "queries.csv", "result.json"]
    assert json.loads((out / "result.json").read_text()) == result
    with (out / "queries.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["query"] for row in rows] == truth["qimlist"]
    assert rows[1]["ap_easy"] == ""
    assert float(rows[0]["ap_easy"]) == pytest.approx(easy, rel=1e-5)
    lines = run(landmarks, *model, *CPU).stdout.splitlines()
    assert [line.split("\t")[0] for line in lines[:4]] == ["%", "easy", "medium", "hard"]

    several = measured(landmarks, *model[:2], "--image-size", 2 * SIZE, "--multi-scale")
    assert several["multi_scale"]
    assert several["easy"] != result["easy"] or several["hard"] != result["hard"]
    truth["gnd"] = [{**one, "easy": []} for one in truth["gnd"]]
    (landmarks / "gnd_town.json").write_text(json.dumps(truth))
    assert measured(landmarks, *model)["easy"]["map"] is None
    assert run(landmarks, *model, *CPU, "-o", tmp_path / "none").exit_code == 0


def test_equal_images_keep_their_order(landmarks: Path, tiny_weights: Path) -> None:
    names = [f"im.{i}" for i in range(40)]
    for name in names[1:]:
        shutil.copy(landmarks / "jpg" / "im.0.jpg", landmarks / "jpg" / f"{name}.jpg")
    path = landmarks / "gnd_town.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "imlist": names}))
    result = measured(landmarks, "--weights", tiny_weights, "--image-size", SIZE)
    for one in result["examples"]:
        assert [Path(near["path"]).stem for near in one["nearest"]] == names[:5]
    assert result["hard"]["map"] == pytest.approx(
        np.mean([slow_precision(list(range(40)), [2, 6], [0, 4, 8]), 1 / 12])
    )


def test_a_pickle_gives_the_same(landmarks: Path, tiny_weights: Path) -> None:
    model = ("--weights", tiny_weights, "--image-size", SIZE)
    expected = measured(landmarks, *model)
    path = landmarks / "gnd_town.json"
    truth = json.loads(path.read_text())
    for one in truth["gnd"]:
        one["easy"] = np.array(one["easy"], dtype=np.int64)
    path.unlink()
    (landmarks / "gnd_town.pkl").write_bytes(pickle.dumps(truth))
    assert measured(landmarks, *model) == expected

    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(landmarks / "ran"),)

    (landmarks / "gnd_town.pkl").write_bytes(pickle.dumps({**truth, "gnd": [Evil()]}))
    assert "names posix.mkdir, which is no plain data" in fails(1, landmarks, *model)
    assert not (landmarks / "ran").exists()


def test_classes_as_written_down(photos: Path, tiny_weights: Path, tmp_path: Path) -> None:
    Image.new("RGB", (50, 50), "white").save(photos / "loose.png")  # ranked, asks nothing
    (photos / "alone").mkdir()
    Image.new("RGB", (60, 50), "black").save(photos / "alone" / "0.png")
    model = ("--weights", tiny_weights, "--image-size", SIZE)
    out = tmp_path / "out"
    result = measured(photos, *model, "-o", out)
    paths = sorted(photos.rglob("*.png"), key=lambda p: p.parts)
    labels = ["" if p.parent == photos else p.parent.name for p in paths]
    unit = features(tiny_weights, paths)
    precisions, first = [], []
    for i, label in enumerate(labels):
        positives = [j for j, other in enumerate(labels) if other == label and j != i]
        if label in ("", "alone"):
            continue
        order = [j for j in (unit @ unit[i]).argsort(descending=True).tolist() if j != i]
        precisions.append(slow_precision(order, positives, []))
        first.append(min(order.index(j) for j in positives))
    assert result["map"] == pytest.approx(np.mean(precisions))
    for k in (1, 5, 10):
        assert result[f"recall@{k}"] == pytest.approx(np.mean(np.array(first) < k))
    assert (result["classes"], result["queries"], result["images"]) == (4, 12, 14)
    shown = [one["average_precision"] for one in result["examples"]]
    assert shown[0] == pytest.approx(max(precisions))
    assert shown[-1] == pytest.approx(min(precisions))
    assert len(shown) == 6
    page = (out / "index.html").read_text()
    for one in result["examples"]:
        label = Path(one["path"]).parent.name
        same = [Path(near["path"]).parent.name == label for near in one["nearest"]]
        assert [near["relevant"] for near in one["nearest"]] == same
        assert f"<p>{Path(one['path']).name}, average precision" in page
    assert page.count("<figure>") == 6 * 6
    with (out / "queries.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["first_rank"]) - 1 for row in rows] == first
    assert "mAP" in run(photos, *model, *CPU).stdout
    assert "use --overwrite" in fails(1, photos, *model, "-o", out)
    assert measured(photos, *model, "-o", out, "--overwrite") == result


def test_unreadable_images(photos: Path, landmarks: Path, tiny_weights: Path) -> None:
    model = ("--weights", tiny_weights, "--image-size", SIZE)
    bad = photos / "red" / "0.png"
    bad.write_bytes(b"")
    result = run(photos, *model, *CPU, "--json")
    assert f"skipped '{bad}': empty file" in result.stderr
    assert json.loads(result.stdout)["queries"] == 11
    assert f"cannot read '{bad}'" in fails(1, photos, *model, "--strict")
    Image.new("RGB", (400, 10)).save(bad)  # 48 x 1 pixels
    assert json.loads(run(photos, *model, *CPU, "--json").stdout)["skipped"] == 1
    # Of a benchmark none may be missing: the ranks would be others.
    (landmarks / "jpg" / "im.3.jpg").write_bytes(b"")
    assert "im.3.jpg': empty file; repair it" in fails(1, landmarks, *model)
    (landmarks / "jpg" / "im.3.jpg").unlink()
    assert "the image 'im.3' of the ground truth is not in" in fails(1, landmarks, *model)


def test_misuse_is_a_sentence(landmarks: Path, tiny_weights: Path, tmp_path: Path) -> None:
    model = ("--weights", tiny_weights)
    out = ("-o", tmp_path / "out")
    before = sorted(os.listdir(tmp_path))
    assert "is not a folder" in fails(1, tmp_path / "gone", *model, *out)
    assert "--image-size 0 is not" in fails(2, landmarks, *model, *out, "--image-size", 0)
    assert "no patch of 16 pixels at half that size; use --image-size 32" in fails(
        2, landmarks, *model, *out, "--image-size", 31, "--multi-scale"
    )
    (landmarks / "gnd_other.json").write_text("{}")
    assert "several ground truths" in fails(1, landmarks, *model, *out)
    (landmarks / "gnd_town.json").unlink()
    assert "'imlist' is missing; it needs imlist" in fails(1, landmarks, *model, *out)
    (landmarks / "gnd_other.json").unlink()
    assert "no gnd_*.json or gnd_*.pkl" in fails(1, landmarks, *model, *out)
    flat = landmarks / "jpg"
    assert "neither ground truth nor two images of one class" in fails(1, flat, *model, *out)
    assert sorted(os.listdir(tmp_path)) == before


@pytest.mark.golden
@pytest.mark.parametrize("name", ["plain", "multiscale"])
def test_whole_command_as_the_original(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    golden = Golden(eval_golden_folder())
    facts, files = golden.json("cli"), golden.tensors("cli")
    case, root = facts["retrieval"][name], None
    with np.load(eval_golden_folder() / "cli_files.npz") as unpacked:
        for key in unpacked.files:
            if key.startswith("revisitop/"):
                path = tmp_path / key
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(unpacked[key].tobytes())
                root = path.parent if path.name.startswith("gnd_") else root
    seen, real = [], task.rank_landmarks

    def noted(truth, queries, database):
        seen.extend((queries, database))
        return real(truth, queries, database)

    monkeypatch.setattr(task, "rank_landmarks", noted)
    weights = eval_golden_folder() / facts["model"]["file"]
    options = ["--heads", facts["model"]["heads"], "--image-size", case["imsize"]]
    options += ["--multi-scale"] if case["multiscale"] else []
    result = measured(root, "--weights", weights, *options)
    for ours, part in zip(seen, ("queries", "database"), strict=True):
        expected = files[f"retrieval.{name}.{part}"]
        torch.testing.assert_close(ours, expected, atol=1e-4, rtol=0)
    for difficulty, expected in case["results"].items():
        assert result[difficulty]["map"] == pytest.approx(expected["map"], abs=1e-6)
        ours = [result[difficulty][f"mp@{k}"] for k in (1, 5, 10)]
        assert ours == pytest.approx(expected["mp_at_k"], abs=1e-6)
