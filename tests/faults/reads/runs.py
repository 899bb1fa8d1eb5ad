"""What training leaves: runs, their configuration, classifiers."""

from pathlib import Path
from typing import Any
from unittest import mock

import torch
from faults.reads.base import TRAIN, command, loading, reader
from small_vit import photo, write_small_vit
from typer.testing import CliRunner

from dino_cli.cli.app import app
from dino_cli.tasks.eval.linear import training as linear_training


@reader
def classifier(folder: Path) -> Any:
    from dino_cli.store.classifier import Classifier, read_classifier, write_classifier

    facts = {"classes": ["a", "b"], "n_last_blocks": 4, "avgpool": False}
    path = folder / "classifier.safetensors"
    write_classifier(path, Classifier(torch.ones(2, 24), torch.zeros(2), facts))
    return [path], lambda: read_classifier(path)


def _run_folder(folder: Path) -> Path:
    for i in range(16):
        photo(folder / "photos" / f"{i}.png", size=(24, 20), seed=i)
    (folder / "small.toml").write_text(TRAIN)
    run = folder / "run"
    words = ("train", folder / "photos", "--config", folder / "small.toml", "-o", run)
    command(*words, "--max-steps", 4, "--save-every", 1)
    return run


@reader
def train_resume(folder: Path) -> Any:
    run = _run_folder(folder)
    files = [run / "checkpoint.pt", run / "config.json", run / "log.jsonl"]
    return files, lambda: command("train", "--resume", run, "--max-steps", 6)


@reader
def report(folder: Path) -> Any:
    run = _run_folder(folder)
    files = [run / "config.json", run / "log.jsonl", run / "log.jsonl"]
    files += sorted((run / "watch").iterdir())
    return files, lambda: command("report", run, "--overwrite")


@reader
def run_as_weights(folder: Path) -> Any:
    run = _run_folder(folder)
    (run / "teacher.safetensors").unlink()
    return [run / "checkpoint.pt", run / "config.json"], loading(run)


@reader
def config_toml(folder: Path) -> Any:
    photo(folder / "photos" / "0.png")
    (folder / "small.toml").write_text(TRAIN)
    words = ("train", folder / "photos", "--config", folder / "small.toml", "--dry-run")
    return [folder / "small.toml"], lambda: command(*words)


@reader
def linear_resume(folder: Path) -> Any:
    for i in range(8):
        photo(folder / "photos" / "ab"[i % 2] / f"{i}.png", seed=i)
    weights = write_small_vit(folder / "w.safetensors")
    words = ("eval", "linear", folder / "photos", folder / "photos", "--weights", weights)
    words = (*words, "--n-last-blocks", 2, "--epochs", 3, "--batch-size", 4, "--lr", 1)
    words = (*words, "--workers", 0, "--device", "cpu", "-o", folder / "out")
    one_epoch, epochs = linear_training._epoch, []

    def stopping(*arguments: Any) -> float:
        epochs.append(1)
        if len(epochs) > 1:
            raise KeyboardInterrupt
        return one_epoch(*arguments)

    with mock.patch.object(linear_training, "_epoch", stopping):
        result = CliRunner().invoke(app, [*map(str, words)])
    assert result.exit_code == 130, result.output
    return [folder / "out" / "checkpoint.pt"], lambda: command(*words, "--resume")
