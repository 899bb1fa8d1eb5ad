"""`dino eval linear` through the command line, on files."""

import csv
import json
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from in_process import answer, refusal
from safetensors.torch import load_file
from typer.testing import CliRunner, Result

from dino_cli.cli.app import app
from dino_cli.tasks.eval.linear import training as linear_training

COMMON = ["--device", "cpu", "--precision", "fp32", "--workers", 0]


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["eval", "linear", *map(str, arguments)])


def evaluate(*arguments: object) -> dict[str, Any]:
    return answer("eval", "linear", *arguments, *COMMON)  # type: ignore[no-any-return]


def fails(code: int, *arguments: object) -> str:
    return refusal(code, "eval", "linear", *arguments, *COMMON)


TRAIN = ["--epochs", 6, "--batch-size", 5, "--lr", 1.0]


def test_a_rate_that_is_too_small_for_so_few_steps_is_told(
    photos: Path, val: Path, tiny_weights: Path
) -> None:
    small = [photos, val, "--weights", tiny_weights, "--epochs", 1, "--batch-size", 5, "--compare"]
    told = run(*small, "--lr", 1e-6, *COMMON).stderr
    assert "the paper's rate is for many more steps than 12 images give; try --lr" in told
    learned = run(photos, val, "--weights", tiny_weights, *TRAIN, "--compare", *COMMON).stderr
    assert "try --lr" not in learned


def test_the_full_protocol_learns_and_leaves_what_it_made(
    photos: Path, val: Path, tiny_weights: Path, tmp_path: Path
) -> None:
    out = tmp_path / "linear"
    result = evaluate(
        photos, val, "--weights", tiny_weights, *TRAIN, "--compare", "--predict", val / "red",
        "-o", out,
    )  # fmt: skip
    assert result["classes"] == ["blue", "green", "red"]
    assert result["top1"] > 0.9  # three colours; by chance .33
    assert "top5" not in result  # of three classes
    assert result["best_top1"] == max(one["top1"] for one in result["history"])
    rates = [one["lr"] for one in result["history"]]
    expected = [5 / 256 * (1 + np.cos(np.pi * e / 6)) / 2 for e in range(6)]
    np.testing.assert_allclose(rates, expected)
    assert result["history"][-1]["loss"] < result["history"][0]["loss"]
    assert set(result["fast"]) >= {"top1", "agreement", "lr", "sweep"}
    assert result["fast"]["agreement"] > 0.9
    assert result["n_last_blocks"] == 4
    files = {"classifier.safetensors", "index.html", "per_class.csv", "predictions.csv"}
    assert set(os.listdir(out)) == files | {"result.json"}  # the checkpoint has served
    with (out / "per_class.csv").open() as file:
        rows = list(csv.reader(file))
    assert [row[:2] for row in rows] == [
        ["class", "images"], ["blue", "4"], ["green", "4"], ["red", "4"],
    ]  # fmt: skip
    with (out / "predictions.csv").open() as file:
        predictions = list(csv.DictReader(file))
    assert [Path(row["path"]).name for row in predictions] == [f"{i}.png" for i in range(4)]
    assert {row["predicted"] for row in predictions} == {"red"}
    examples = result["examples"]
    sure = [one["probability"] for one in examples]
    assert sure == sorted(sure, reverse=True)
    assert len({one["path"] for one in examples}) == 6
    assert all(Path(one["path"]).parent == val / one["label"] for one in examples)
    known = {row["path"]: float(row["probability"]) for row in predictions}
    red = {one["path"]: one["probability"] for one in examples if one["label"] == "red"}
    assert red == pytest.approx({path: known[path] for path in red}, rel=1e-5)
    assert (out / "index.html").read_text().count("<img") == 6

    other = tmp_path / "named"
    given = ["--classifier", out / "classifier.safetensors", "--predict", val / "red"]
    told = run(*given, "-o", other, *COMMON).stdout
    assert f"{other}/predictions.csv: 4 predictions" in told.splitlines()
    assert (other / "predictions.csv").read_text() == (out / "predictions.csv").read_text()

    # The classifier alone, with the network that it names.
    again = evaluate(val, "--classifier", out / "classifier.safetensors")
    assert again["protocol"] == "given classifier"
    assert again["per_class"] == result["per_class"]
    named = evaluate("--classifier", out / "classifier.safetensors", "--predict", val / "blue")
    assert [one["predicted"] for one in named["predictions"]] == ["blue"] * 4
    assert all(0.3 < one["probability"] <= 1 for one in named["predictions"])


def test_the_fast_protocol_is_logistic_regression(
    photos: Path, val: Path, tiny_weights: Path, tmp_path: Path
) -> None:
    """The classifier equals one that torch trains step by step on the exported features."""
    out = tmp_path / "fast"
    options = ["--epochs", 4, "--batch-size", 5, "--n-last-blocks", 1, "--no-avgpool"]
    result = evaluate(photos, val, "--weights", tiny_weights, "--fast", *options, "-o", out)
    assert result["protocol"] == "fast"
    assert result["lr"] in linear_training.SWEEP
    assert len(result["sweep"]) == len(linear_training.SWEEP)
    best = [lr for lr, top1 in result["sweep"].items() if top1 == max(result["sweep"].values())]
    assert f"{result['lr']:g}" == best[len(best) // 2]
    export = ["embed", photos, "-o", tmp_path / "f.npy", "--weights", tiny_weights, *COMMON]
    assert CliRunner().invoke(app, [*map(str, export)]).exit_code == 0
    features = torch.from_numpy(np.load(tmp_path / "f.npy"))
    with (tmp_path / "f.csv").open() as file:
        names = [row["label"] for row in csv.DictReader(file)]
    labels = torch.tensor([result["classes"].index(name) for name in names])
    layer = torch.nn.Linear(features.shape[1], 3)
    generator = torch.Generator().manual_seed(0)
    layer.weight.data = 0.01 * torch.randn(3, features.shape[1], generator=generator)
    layer.bias.data.zero_()
    optimizer = torch.optim.SGD(layer.parameters(), 1.0, momentum=0.9)
    for epoch in range(4):
        cosine = (1 + np.cos(np.pi * epoch / 4)) / 2
        optimizer.param_groups[0]["lr"] = result["lr"] * 5 / 256 * cosine
        order = np.random.default_rng((0, epoch)).permutation(len(labels))
        for start in range(0, len(order), 5):
            batch = order[start : start + 5]
            loss = F.cross_entropy(layer(features[batch]), labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    made = load_file(out / "classifier.safetensors")
    torch.testing.assert_close(made["weight"], layer.weight.data, atol=1e-4, rtol=1e-3)


def test_a_resumed_training_is_the_same(
    photos: Path, val: Path, tiny_weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = evaluate(photos, val, "--weights", tiny_weights, *TRAIN, "-o", tmp_path / "whole")
    one_epoch = linear_training._epoch

    def stopping(*arguments: Any) -> float:
        if arguments[5] == 3:
            raise KeyboardInterrupt
        return one_epoch(*arguments)

    out = ["--weights", tiny_weights, *TRAIN, "-o", tmp_path / "parts"]
    monkeypatch.setattr(linear_training, "_epoch", stopping)
    text = fails(130, photos, val, *out)
    assert "interrupted after 3 of 6 epochs" in text
    assert "--resume" in text
    assert os.listdir(tmp_path / "parts") == ["checkpoint.pt"]
    monkeypatch.setattr(linear_training, "_epoch", one_epoch)
    assert "unfinished training; use --resume" in fails(1, photos, val, *out)
    assert "made with lr 1.0, not 2.0" in fails(1, photos, val, *out, "--lr", 2, "--resume")
    resumed = evaluate(photos, val, *out, "--resume")
    assert resumed["history"] == whole["history"]
    a, b = (load_file(tmp_path / name / "classifier.safetensors") for name in ("whole", "parts"))
    assert torch.equal(a["weight"], b["weight"])
    assert "already exists" in fails(1, photos, val, *out, "--resume")


def test_the_best_epoch_is_told_though_it_came_before_an_interruption(
    photos: Path, val: Path, tiny_weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which comes while the second epoch is being kept, and is lost with it."""
    scores, save, kept = [0.75, 1.0, 0.25, 0.5], torch.save, list[int]()

    def stopping(state: Any, path: Path) -> None:
        kept.append(len(kept))
        save(state, path)
        if len(kept) == 2:
            path.write_bytes(path.read_bytes()[:100])
            raise KeyboardInterrupt

    monkeypatch.setattr(linear_training, "accuracy", lambda *_: scores.pop(0))
    monkeypatch.setattr(torch, "save", stopping)
    out = [photos, val, "--weights", tiny_weights, "--epochs", 3, "-o", tmp_path / "out"]
    assert "interrupted after 1 of 3 epochs" in fails(130, *out)
    half = torch.arange(12) % 2 == 0
    hits = SimpleNamespace(top1=half, top5=half)
    monkeypatch.setattr("dino_cli.tasks.eval.linear.results.top_hits", lambda *_: hits)
    result = evaluate(*out, "--resume")
    assert [one["top1"] for one in result["history"]] == [0.75, 0.25, 0.5]
    assert (result["top1"], result["best_top1"]) == (0.5, 0.75)


def test_what_stops_in_the_first_epoch_keeps_nothing(
    photos: Path, val: Path, tiny_weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopping(*_: Any) -> float:
        raise KeyboardInterrupt

    monkeypatch.setattr(linear_training, "_epoch", stopping)
    text = fails(130, photos, val, "--weights", tiny_weights, "-o", tmp_path / "out")
    assert "interrupted; nothing was kept" in text
    assert not (tmp_path / "out").exists()


def test_every_tenth_of_a_class_is_held_out_and_nothing_of_a_single_one() -> None:
    labels = torch.tensor([0] * 21 + [1] + [2, 2])
    assert linear_training.held_out(labels).nonzero()[:, 0].tolist() == [0, 10, 20, 22]


def test_resume_without_a_checkpoint_starts(
    photos: Path, val: Path, tiny_weights: Path, tmp_path: Path
) -> None:
    options = ["--weights", tiny_weights, "--epochs", 2, "--batch-size", 5, *COMMON]
    result = run(photos, val, *options, "-o", tmp_path / "new", "--resume")
    assert result.exit_code == 0, result.output
    assert result.stderr.count("has no checkpoint.pt: training from the beginning") == 1
    made = json.loads((tmp_path / "new/result.json").read_text())
    assert len(made["history"]) == 2


def test_a_broken_photo_is_left_out(photos: Path, val: Path, tiny_weights: Path) -> None:
    (photos / "red/0.png").write_bytes(b"")
    (val / "red/0.png").write_bytes(b"")
    options = ["--weights", tiny_weights, "--epochs", 1, "--batch-size", 5]
    result = run(photos, val, *options, *COMMON)
    assert result.exit_code == 0, result.output
    assert f"skipped '{val}/red/0.png': empty file" in result.stderr
    assert f"skipped '{photos}/red/0.png': empty file" in result.stderr
    assert "11 images" not in result.stdout
    assert "red\t3\t" in result.stdout
    assert "empty file; repair it" in fails(1, photos, val, *options, "--strict")


def test_misuse_is_a_sentence(
    photos: Path, val: Path, tiny_weights: Path, tmp_path: Path, make_weights: Any
) -> None:
    model = ["--weights", tiny_weights]
    before = sorted(os.listdir(tmp_path))
    assert "name both" in fails(2, photos, *model)
    assert "'gone' does not exist" in fails(1, "gone", val, *model)
    assert "have no classes" in fails(1, photos / "red", val, *model)
    assert "is a class of the classifier" in fails(1, photos, photos.parent, *model)
    assert "--epochs 0" in fails(2, photos, val, *model, "--epochs", 0)
    assert "--batch-size 0" in fails(2, photos, val, *model, "--batch-size", 0)
    assert "--lr 0" in fails(2, photos, val, *model, "--lr", 0)
    assert "--seed -1" in fails(2, photos, val, *model, "--seed", -1)
    assert "leave out --fast" in fails(2, photos, val, *model, "--fast", "--compare")
    assert "with one block" in fails(2, photos, val, *model, "--n-last-blocks", 2, "--avgpool")
    assert "--n-last-blocks 0" in fails(2, photos, val, *model, "--n-last-blocks", 0)
    assert "name it with -o" in fails(2, photos, val, *model, "--resume")
    assert "does not exist" in fails(1, val, "--classifier", tmp_path / "gone.pth", *model)
    assert "trains nothing" in fails(2, val, "--classifier", "x.pth", "--fast")
    assert "nothing to classify" in fails(2, "--classifier", "x.pth")
    assert "does not exist" in fails(1, photos, val, *model, "-o", tmp_path / "no/such")
    assert sorted(os.listdir(tmp_path)) == before


def test_classifiers_that_do_not_fit(
    photos: Path, val: Path, tiny_weights: Path, tmp_path: Path, make_weights: Any
) -> None:
    model = ["--weights", tiny_weights]

    def classifier(rows: int, width: int) -> Path:
        layer = {"linear.weight": torch.zeros(rows, width), "linear.bias": torch.zeros(rows)}
        torch.save(layer, tmp_path / "c.pth")
        return tmp_path / "c.pth"

    text = fails(1, val, "--classifier", classifier(3, 99), *model)
    assert "takes 99 features, but vit_64x2_patch16 gives 128" in text
    text = fails(1, val, "--classifier", classifier(4, 128), *model)
    assert "has 4 classes and names none" in text
    assert evaluate(val, "--classifier", classifier(3, 64), *model)["n_last_blocks"] == 1
    evaluate(photos, val, *model, "--fast", "--epochs", 1, "-o", tmp_path / "own")
    own = tmp_path / "own/classifier.safetensors"
    other = make_weights(tmp_path / "other.safetensors", seed=5)
    assert "was trained on features of" in fails(1, val, "--classifier", own, "--weights", other)
    assert "already exists" in fails(1, photos, val, *model, "-o", tmp_path / "own")


def test_a_classifier_is_of_one_network_of_a_checkpoint(
    photos: Path, val: Path, full: Path, tmp_path: Path
) -> None:
    student = ["--weights", full, "--checkpoint-key", "student"]
    made = evaluate(photos, val, *student, "--fast", "--epochs", 2, "-o", tmp_path / "own")
    own = ["--classifier", tmp_path / "own/classifier.safetensors"]
    text = fails(1, val, *own, "--weights", full)
    assert "was trained on features made with checkpoint_key student, not teacher" in text
    assert "use --checkpoint-key student" in text
    assert "not teacher" in fails(1, val, *own, "--checkpoint-key", "teacher")
    text = fails(1, val, *own, *student, "--patch-size", 16)
    assert "made with patch_size None, not 16; leave out --patch-size" in text
    assert evaluate(val, *own, *student)["top1"] == made["top1"]
    assert evaluate(val, *own)["top1"] == made["top1"]


def test_a_training_goes_on_with_the_features_it_began_with(
    photos: Path, val: Path, full: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, names = tmp_path / "parts", tmp_path / "train.txt"
    lines = [f"{path}\t{path.parent.name}\n" for path in sorted(photos.glob("*/*.png"))]
    names.write_text("".join(lines))
    options = [names, val, "--epochs", 2, "--batch-size", 5, "-o", out]
    again = [*options, "--weights", full, "--resize", 70, "--crop", 64, "--resume"]
    one_epoch = linear_training._epoch

    def stopping(*arguments: Any) -> float:
        if arguments[5] == 1:
            raise KeyboardInterrupt
        return one_epoch(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(linear_training, "_epoch", stopping)
        fails(130, *again)
    for change, words in (
        (["--checkpoint-key", "student"], "checkpoint_key teacher, not student"),
        (["--heads", 2], "heads None, not 2"),
        (["--resize", 80], "resize 70, not 80"),
        (["--crop", 48], "crop 64, not 48"),
        (["--no-exif"], "exif True, not False"),
        (["--seed", 3], "seed 0, not 3"),
        (["--precision", "bf16"], "precision fp32, not bf16"),
    ):
        told = refusal(1, "eval", "linear", *again, *COMMON, *change)
        assert f"is of another run, made with {words}" in told
    names.write_text("".join([*lines[:-1], lines[-1].replace("\tred", "\tblue")]))
    assert "is of another run, made with images " in fails(1, *again)
    names.write_text("".join(lines))
    other = [*options, "--weights", tmp_path / "student.safetensors", "--resume"]
    assert "made with vit_64x2_patch16 (weights " in fails(1, *other)
    # A checkpoint of an earlier version tells less of what made it.
    state = torch.load(out / "checkpoint.pt", weights_only=True)
    facts = json.loads(state["facts"])
    for name in ("model", "checkpoint_key", "heads", "preprocessing", "precision"):
        del facts[name]
    torch.save({**state, "facts": json.dumps(facts)}, out / "checkpoint.pt")
    assert "made with another model (weights " in fails(1, *other)
    moved = full.rename(tmp_path / "moved.pth")
    assert len(evaluate(*again, "--weights", moved)["history"]) == 2
