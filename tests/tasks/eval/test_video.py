"""`dino eval video` through the command line, on small videos."""

import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from golden_files import Golden, eval_golden_folder
from in_process import answer, refusal
from PIL import Image
from typer.testing import CliRunner, Result

from dino_cli.cli.app import app
from dino_cli.core.evaluation.propagation import Propagation
from dino_cli.tasks.eval.video import labels as video_labels
from dino_cli.tasks.eval.video.labels import RegionScores
from dino_cli.tasks.eval.video.results import VideoScore, score_table

FRAMES, SHORT, LONG = 6, 64, 100
FAST = ("--image-size", SHORT, "--device", "cpu", "--precision", "fp32", "--workers", 2)


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["eval", "video", *map(str, arguments)])


def measured(*arguments: object) -> dict[str, Any]:
    return answer("eval", "video", *arguments)  # type: ignore[no-any-return]


def fails(code: int, *arguments: object) -> str:
    return refusal(code, "eval", "video", *arguments)


def write_video(root: Path, name: str, *, objects: int = 2, binary: bool = False) -> None:
    """Squares of noise that move to the right over noise of another colour."""
    rng = np.random.default_rng(len(name))
    back = rng.integers(0, 90, (SHORT, LONG, 3), dtype=np.uint8)
    fronts = rng.integers(120, 256, (objects, 24, 24, 3), dtype=np.uint8)
    for i in range(FRAMES):
        photo, labels = back.copy(), np.zeros((SHORT, LONG), np.uint8)
        for j in range(objects):
            at = slice(4 + 30 * j, 28 + 30 * j), slice(10 + 8 * i, 34 + 8 * i)
            photo[at], labels[at] = fronts[j], j + 1
        for kind, picture, suffix in (
            ("JPEGImages", Image.fromarray(photo), "jpg"),
            ("Annotations", Image.fromarray(labels * 255 if binary else labels), "png"),
        ):
            folder = root / kind / "480p" / name
            folder.mkdir(parents=True, exist_ok=True)
            if suffix == "png" and not binary:
                picture.putpalette([0, 0, 0, 9, 8, 7, 90, 80, 70])
            picture.save(folder / f"{i:05d}.{suffix}", quality=95)


@pytest.fixture
def davis(tmp_path: Path) -> Path:
    root = tmp_path / "davis"
    write_video(root, "pair")
    write_video(root, "single", objects=1, binary=True)
    (root / "ImageSets" / "2017").mkdir(parents=True)
    (root / "ImageSets" / "2017" / "val.txt").write_text("single\npair\n")
    (root / "ImageSets" / "2017" / "one.txt").write_text("pair\n")
    return root


def test_masks_measures_and_report(davis: Path, tiny_weights: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    result = measured(davis, "--weights", tiny_weights, *FAST, "-o", out)
    assert list(result["per_object"]) == ["single_1", "pair_1", "pair_2"]
    assert (result["videos"], result["objects"], result["frames"]) == (2, 3, 2 * FRAMES)
    assert result["seconds_per_frame"] > 0
    assert sorted(os.listdir(out)) == ["index.html", "pair", "result.json", "single"]
    names = [f"{i:05d}.png" for i in range(FRAMES)]
    assert sorted(os.listdir(out / "pair")) == [*names, "scores.json"]
    kept = json.loads((out / "result.json").read_text())
    assert kept == result
    page = (out / "index.html").read_text()
    assert "zero motion" in page
    rows = re.findall(
        r'<article class="sample"><p>(\w+), J&amp;F ([\d.]+) %</p>(.*?)</article>', page, re.S
    )
    assert {name for name, _, _ in rows} == {"pair", "single"}
    assert float(rows[0][1]) >= float(rows[1][1])
    for _, _, row in rows:
        assert row.count("<figure>") == min(FRAMES, 6)
        assert "frame 0, given" in row

    # What stands in the PNGs is what was measured, and the first one is the given mask.
    truth = davis / "Annotations" / "480p" / "pair"
    overlaps = {1: [], 2: []}
    for name in names:
        with Image.open(out / "pair" / name) as image, Image.open(truth / name) as true:
            assert image.mode == "P"
            assert image.getpalette()[:9] == [0, 0, 0, 9, 8, 7, 90, 80, 70]
            ours, theirs = np.array(image), np.array(true)
        assert ours.shape == (SHORT, LONG)
        if name == names[0]:
            np.testing.assert_array_equal(ours, theirs)
        elif name != names[-1]:
            for number, values in overlaps.items():
                a, b = ours == number, theirs == number
                values.append((a & b).sum() / (a | b).sum())
    for number, values in overlaps.items():
        assert result["per_object"][f"pair_{number}"]["J"] == pytest.approx(np.mean(values))
    with Image.open(out / "single" / names[0]) as image:  # no palette given: that of PASCAL VOC
        assert image.getpalette()[:6] == [0, 0, 0, 128, 0, 0]
        assert set(np.unique(np.array(image))) == {0, 1}

    # The squares move by 8 pixels a frame, so that the copied mask overlaps by 24 - 8i columns.
    still = [(24 - 8 * i) / (24 + 8 * i) if i < 3 else 0 for i in range(1, FRAMES - 1)]
    assert result["zero_motion"]["per_object"]["pair_1"]["J"] == pytest.approx(np.mean(still))
    for name in ("J", "F"):
        assert result[f"{name}-Mean"] == pytest.approx(
            np.mean([one[name] for one in result["per_object"].values()])
        )
    assert result["J&F-Mean"] == pytest.approx((result["J-Mean"] + result["F-Mean"]) / 2)


def test_table_split_and_batches(davis: Path, tiny_weights: Path) -> None:
    arguments = (davis, "--weights", tiny_weights, *FAST, "--split", "one")
    result = run(*arguments, "--batch-size", 1)
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert lines[0].split("\t") == ["%", "vit_64x2_patch16", "zero motion"]
    assert lines[1].startswith("J&F-Mean\t")
    one, many = (measured(*arguments, "--batch-size", size) for size in (1, 5))
    assert list(one["per_object"]) == ["pair_1", "pair_2"]
    for name, value in one["per_object"].items():
        assert many["per_object"][name] == pytest.approx(value, abs=0.02)
    other = measured(*arguments, "--topk", 1, "--n-last-frames", 0)
    assert other["per_object"] != one["per_object"]
    near = measured(*arguments, "--size-mask-neighborhood", 1)
    assert near["per_object"] != one["per_object"]


def test_resume_keeps_what_is_done(
    davis: Path, tiny_weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, whole = tmp_path / "out", tmp_path / "whole"
    arguments = (davis, "--weights", tiny_weights, *FAST)
    expected = measured(*arguments, "-o", whole)
    real, steps = Propagation.step, []

    def interrupted(self, tokens):
        steps.append(1)
        if len(steps) > FRAMES + 1:  # in the second video
            raise KeyboardInterrupt
        return real(self, tokens)

    monkeypatch.setattr(Propagation, "step", interrupted)
    message = fails(130, *arguments, "-o", out)
    assert "1 of 2 videos are done and kept" in message
    assert "--resume goes on" in message
    assert os.listdir(out) == ["single"]
    monkeypatch.setattr(Propagation, "step", real)
    assert "topk 5, not 3" in fails(1, *arguments, "-o", out, "--resume", "--topk", 3)
    assert "already exists" in fails(1, *arguments, "-o", out)
    for kind in ("JPEGImages", "Annotations"):  # as many frames
        shutil.copytree(davis / kind / "480p", davis / kind / "Full")
    text = fails(1, *arguments, "-o", out, "--resume", "--resolution", "Full")
    assert "was made with resolution 480p, not Full" in text
    before = (out / "single" / "scores.json").stat().st_mtime_ns
    result = measured(*arguments, "-o", out, "--resume")
    assert (out / "single" / "scores.json").stat().st_mtime_ns == before
    for key, value in expected.items():
        if key not in ("output", "seconds_per_frame"):
            assert result[key] == value, key
    for path in whole.glob("*/*.png"):
        assert (out / path.relative_to(whole)).read_bytes() == path.read_bytes()
    kept = json.loads((out / "single" / "scores.json").read_text())
    del kept["made_with"]["resolution"]  # as earlier versions left it
    (out / "single" / "scores.json").write_text(json.dumps(kept))
    # A folder that is whole is measured again from what was kept.
    assert measured(*arguments, "-o", out, "--resume")["per_object"] == expected["per_object"]
    assert measured(*arguments, "-o", out, "--overwrite")["per_object"] == expected["per_object"]


def test_videos_without_truth(davis: Path, tiny_weights: Path, tmp_path: Path) -> None:
    masks = davis / "Annotations" / "480p" / "pair"
    for path in sorted(masks.glob("*.png"))[1:]:
        path.unlink()
    arguments = (davis, "--weights", tiny_weights, *FAST, "--split", "one")
    assert "nothing to measure; use -o" in fails(2, *arguments)
    result = measured(*arguments, "-o", tmp_path / "out")
    assert result["J&F-Mean"] is None
    assert result["per_object"] == {}
    assert len(list((tmp_path / "out" / "pair").glob("*.png"))) == FRAMES
    assert run(*arguments, "-o", tmp_path / "again").exit_code == 0


def test_misuse_and_damaged_files_are_sentences(
    davis: Path, tiny_weights: Path, tmp_path: Path
) -> None:
    model = ("--weights", tiny_weights, *FAST)
    out = ("-o", tmp_path / "out")
    before = sorted(os.listdir(tmp_path))
    assert "is not a folder" in fails(1, tmp_path / "gone", *model, *out)
    assert "no folder 'JPEGImages'" in fails(1, tmp_path, *model, *out)
    assert "use --resolution 480p" in fails(1, davis, *model, *out, "--resolution", "1080p")
    assert "no list 'test'" in fails(1, davis, *model, *out, "--split", "test")
    assert "--topk 0 is less than 1" in fails(2, davis, *model, *out, "--topk", 0)
    assert "--image-size 8 is smaller" in fails(2, davis, *model, "--image-size", 8)
    assert "--resume needs the folder" in fails(2, davis, *model, "--resume")
    assert "does not exist" in fails(1, davis, *model, "-o", tmp_path / "no" / "out")

    frame = davis / "JPEGImages" / "480p" / "pair" / "00003.jpg"
    kept = frame.read_bytes()
    frame.write_bytes(kept[:100])
    assert f"cannot read the frame '{frame}'" in fails(1, davis, *model, *out)
    Image.new("RGB", (LONG, SHORT + 1)).save(frame)
    assert f"{LONG} x {SHORT + 1} pixels, the first mask" in fails(1, davis, *model, *out)
    frame.write_bytes(kept)
    mask = davis / "Annotations" / "480p" / "pair" / "00002.png"
    kept = mask.read_bytes()
    Image.new("RGB", (LONG, SHORT)).save(mask)
    assert "has colours (mode RGB)" in fails(1, davis, *model, *out)
    Image.new("L", (LONG, 3)).save(mask)
    assert f"{LONG} x 3 pixels, its frame" in fails(1, davis, *model, *out)
    mask.write_bytes(kept)
    (mask.parent / "00000.png").unlink()
    assert "no mask of its first frame" in fails(1, davis, *model, *out)
    assert sorted(os.listdir(tmp_path)) == before


def test_a_convnet_is_refused(davis: Path, tmp_path: Path) -> None:
    import timm
    from safetensors.torch import save_file

    torch.manual_seed(0)
    net = timm.create_model("resnet10t", num_classes=0)
    save_file(net.state_dict(), tmp_path / "convnet.safetensors")
    weights = ("--weights", tmp_path / "convnet.safetensors", "--arch", "resnet10t")
    assert "has no tokens of patches" in fails(2, davis, *weights, *FAST)


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("golden")
    with np.load(eval_golden_folder() / "cli_files.npz") as files:
        for name in files.files:
            if name.startswith("davis/"):
                path = root / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(files[name].tobytes())
    return root / "davis"


@pytest.mark.golden
def test_whole_command_as_the_original(
    unpacked: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    golden = Golden(eval_golden_folder())
    facts, files = golden.json("cli"), golden.tensors("cli")
    inputs, masks = [], []
    real, first = video_labels.normalize, Propagation.__init__

    def noted(*arguments):
        inputs.append(real(*arguments))
        return inputs[-1]

    def begun(self, tokens, mask, **options):
        masks.append((len(inputs), mask))
        first(self, tokens, mask, **options)

    monkeypatch.setattr(video_labels, "normalize", noted)
    monkeypatch.setattr(Propagation, "__init__", begun)
    weights = eval_golden_folder() / facts["model"]["file"]
    options = ("--device", "cpu", "--heads", facts["model"]["heads"])
    result = measured(unpacked, "--weights", weights, *options, "-o", tmp_path / "out")

    names = (unpacked / "ImageSets" / "2017" / "val.txt").read_text().split()
    assert set(names) == set(facts["video"])
    for name, (seen, mask) in zip(names, masks, strict=True):
        expected = files[f"video.{name}.frame0_every_16th"]
        frame = inputs[seen - 1][0]
        assert list(frame.shape[1:]) == facts["video"][name]["network_size"]
        torch.testing.assert_close(frame[:, ::16, ::16], expected, atol=1e-4, rtol=0)
        theirs = files[f"video.{name}.first_seg"]  # a channel for each number up to the largest
        held = theirs.flatten(1).any(dim=1)
        assert torch.equal(mask.float()[mask.flatten(1).any(dim=1)], theirs[held])
    with np.load(eval_golden_folder() / "cli_labels.npz") as labels:
        for name in names:
            paths = sorted((tmp_path / "out" / name).glob("*.png"))
            ours = np.stack([np.array(Image.open(path)) for path in paths])
            assert (ours != labels[f"video.{name}"]).mean() <= 1e-3
    for name, value in facts["video_results"].items():
        if name == "per_object":
            assert set(value) == set(result[name])
            for one in value:
                assert result[name][one] == pytest.approx(value[one], abs=1e-3)
        else:
            assert result[name] == pytest.approx(value, abs=1e-3), name


@pytest.mark.golden
def test_the_table_is_the_official_evaluators() -> None:
    """Two sequences, as label maps with void pixels; first and last frames do not count."""
    facts = Golden(eval_golden_folder()).json("davis")["tree"]
    scores = []
    with np.load(eval_golden_folder() / "davis.npz") as maps:
        for name, objects in facts["sequences"].items():
            of = RegionScores.of(objects)
            truths, predictions = maps[f"tree.{name}.gt"], maps[f"tree.{name}.pred"]
            for truth, predicted in list(zip(truths, predictions, strict=True))[1:-1]:
                of.add(truth, predicted)
            score = VideoScore(name, objects, len(truths), 0.0, of, RegionScores.of(objects))
            scores.append((score, of))
    table = score_table(scores)
    for name, value in facts["global_results"].items():
        assert table[name] == pytest.approx(value, abs=1e-9), name
    assert set(table["per_object"]) == set(facts["per_object"])
    for one, values in facts["per_object"].items():
        assert table["per_object"][one] == pytest.approx(values, abs=1e-9), one
