"""`dino train` through the command line, on drawn images."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest
import torch
from in_process import dino
from safetensors.torch import load_file
from small_run import losses

from dino_cli.core.training.step import train_step
from dino_cli.data.views.batches import crop_batches
from dino_cli.runtime import StopOverdue
from dino_cli.store.runs.checkpoints import load_checkpoint
from dino_cli.store.runs.log import Log
from dino_cli.tasks.train.feed import Feed
from dino_cli.tasks.train.pace import Pace, Stretch


def test_a_run_leaves_what_spec_says(images, small, tmp_path):
    run = tmp_path / "run"
    result = json.loads(dino("train", images, "--config", small, "-o", run, "--json").stdout)
    assert result["steps"] == 12  # 33 images, 8 per step, 3 epochs
    names = {p.name for p in run.iterdir() if not p.name.startswith("events.out.tfevents")}
    assert names == {
        "config.json", "log.jsonl", "checkpoint.pt", "checkpoint.1.pt", "teacher.safetensors",
        "loss.png", "watch",
    }  # fmt: skip
    entries = Log.read(run / "log.jsonl")
    steps = [e for e in entries if "step" in e]
    epochs = [e for e in entries if "epoch_loss" in e]
    assert [e["step"] for e in steps] == list(range(12))
    wanted = {
        "step", "epoch", "loss", "lr", "weight_decay", "momentum", "teacher_entropy",
        "images_per_second", "data_wait", "entropy_share", "target_spread", "target_kl",
        "prototypes", "centre_norm", "feature_std", "feature_rank", "gradient_norm",
        "update_ratio", "memory_gib",
    }  # fmt: skip
    assert wanted <= steps[0].keys()
    assert all(isinstance(value, int | float) for s in steps for value in s.values())
    assert [e["epoch"] for e in epochs] == [0, 1, 2]
    assert all(not {"step", "loss", "lr"} & e.keys() for e in epochs)
    for e in epochs:
        mean = sum(s["loss"] for s in steps if s["epoch"] == e["epoch"]) / 4
        assert e["epoch_loss"] == pytest.approx(mean, rel=1e-6)
    assert steps[0]["lr"] == 0
    assert [s["update_ratio"] > 0 for s in steps] == [s["lr"] > 0 for s in steps]
    assert max(s["lr"] for s in steps) == pytest.approx(0.0005 * 8 / 256)
    config = json.loads((run / "config.json").read_text())
    assert config["architecture"]["grid"] == [4, 4]
    assert config["train"]["out_dim"] == 64


def test_same_seed_same_losses_and_other_seed_others(images, small, tmp_path):
    for name, flags in {"a": [], "b": ["--workers", "1"], "c": ["--seed", "1"]}.items():
        dino("train", images, "--config", small, "-o", tmp_path / name, "--max-steps", "3", *flags)
    assert losses(tmp_path / "a") == losses(tmp_path / "b")
    assert losses(tmp_path / "a") != losses(tmp_path / "c")


def test_views_of_a_batch_train_as_those_of_single_photos(images, small, tmp_path):
    """Made on the device (here the CPU) or by the workers: grey levels apart, of the same draws."""
    found = []
    for views in ("cpu", "gpu"):
        dino("train", images, "--config", small, "-o", tmp_path / views, "--views", views)
        found.append(losses(tmp_path / views))
    assert found[1] == pytest.approx(found[0], abs=0.02)


@pytest.mark.parametrize(
    ("drop_path", "centre"),
    [
        pytest.param("0", "zero", marks=pytest.mark.slow),
        pytest.param("0.3", "zero", marks=pytest.mark.slow),
        ("0", "batch"),
    ],
)
def test_accumulation_equals_the_large_batch(images, small, tmp_path, drop_path, centre):
    """Same images per step in the same order, so the losses agree to rounding."""
    for name, flags in {"one": ["8", "1"], "two": ["4", "2"]}.items():
        dino(
            "train", images, "--config", small, "-o", tmp_path / name, "--drop-path", drop_path,
            "--batch-size", flags[0], "--accumulate", flags[1], "--center-init", centre,
        )  # fmt: skip
    one, two = losses(tmp_path / "one"), losses(tmp_path / "two")
    assert list(one.values()) == pytest.approx(list(two.values()), rel=1e-4)


@pytest.mark.slow
def test_training_learns(images, small, tmp_path):
    """The loss falls well below where it starts, which is near ln K, and targets stay apart."""
    run = tmp_path / "run"
    dino(
        "train", images, "--config", small, "-o", run, "--epochs", "30", "--lr", "0.03",
        "--use-bn-in-head", "--center-init", "batch", "--momentum-teacher", "0.9",
        "--teacher-temp", "0.03", "--warmup-teacher-temp", "0.03", "--log-every", "10",
    )  # fmt: skip
    entries = [e for e in Log.read(run / "log.jsonl") if "step" in e]
    assert entries[-1]["loss"] < 0.75 * entries[0]["loss"]
    assert entries[-1]["target_spread"] > 0.3


@pytest.mark.parametrize("optimizer", ["sgd", "lars"])
def test_optimizers_and_head_options_run(images, small, tmp_path, optimizer):
    dino(
        "train", images, "--config", small, "-o", tmp_path / "run", "--max-steps", "2",
        "--optimizer", optimizer, "--no-norm-last-layer", "--conv-stem", "--final-size", "48", "24",
        "--final-share", "0.9", "--augment-ramp", "0.5", "--checkpoint-activations",
        "--local-crops-number", "0",
    )  # fmt: skip
    assert all(loss > 0 for loss in losses(tmp_path / "run").values())


@pytest.mark.slow
def test_koleo_spreads_the_features_and_is_in_the_log(images, small, tmp_path):
    dino("train", images, "--config", small, "-o", tmp_path / "plain")
    dino("train", images, "--config", small, "-o", tmp_path / "spread", "--koleo-weight", "1")
    plain, spread = (
        [entry for entry in Log.read(tmp_path / name / "log.jsonl") if "loss" in entry]
        for name in ("plain", "spread")
    )
    assert all("koleo" not in entry for entry in plain)
    assert spread[-1]["koleo"] < spread[0]["koleo"]
    assert spread[-1]["feature_std"] > plain[-1]["feature_std"]
    assert spread[0]["loss"] == plain[0]["loss"]


def test_an_unreadable_image_is_named_and_skipped(images, small, tmp_path):
    data = tmp_path / "data"
    shutil.copytree(images, data)
    (data / "fish" / "broken.png").write_bytes(b"not an image")
    result = dino("train", data, "--config", small, "-o", tmp_path / "run", "--epochs", "1")
    assert "broken.png" in result.stderr
    result = dino(
        "train", data, "--config", small, "-o", tmp_path / "strict", "--epochs", "1", "--strict",
        code=1,
    )  # fmt: skip
    assert "broken.png" in result.stderr


@pytest.mark.slow
def test_a_large_total_batch_may_hold_a_large_share_of_the_first_images(
    images, small, tmp_path, monkeypatch
):
    """Two of 32 are fewer than one in ten, though more than one in ten of the first ten."""
    monkeypatch.setattr("dino_cli.tasks.train.feed.FIRST_IMAGES", 10)
    data = tmp_path / "data"
    shutil.copytree(images, data)
    for path in sorted(data.rglob("*.png"))[5:7]:
        path.write_bytes(b"not an image")
    words = ["train", data, "--config", small, "--batch-size", "32", "--epochs", "1"]
    dino(*words, "-o", tmp_path / "run", "--max-unreadable", "0.1")
    result = dino(*words, "-o", tmp_path / "strict", "--max-unreadable", "0.05", code=1)
    assert "2 files are unreadable among the first 32 images" in result.stderr


def test_processes_share_the_cores_among_their_workers(images, small, tmp_path, monkeypatch):
    """Who also learn whether views are made later, and whether photos are turned."""
    asked = []

    def batches(*arguments, **options):
        asked.append(options)
        return crop_batches(*arguments, **{**options, "workers": 0})

    monkeypatch.setattr("dino_cli.tasks.train.run.crop_batches", batches)
    monkeypatch.setattr("dino_cli.runtime.devices.available_cores", lambda: 32)
    for here, workers, flags in (
        ("8", 4, []),
        ("1", 10, ["--views", "gpu"]),
        ("64", 1, ["--no-exif"]),
    ):
        monkeypatch.setenv("LOCAL_WORLD_SIZE", here)
        words = ["train", images, "--config", small, "-o", tmp_path / here, "--workers", "10"]
        dino(*words, "--max-steps", "1", *flags)
        assert asked[-1]["workers"] == workers
        assert asked[-1]["photos"] == ("gpu" in flags)
        assert asked[-1]["exif"] == ("--no-exif" not in flags)


def test_knn_during_training_is_in_the_log(images, small, tmp_path):
    run = tmp_path / "run"
    dino("train", images, "--config", small, "-o", run, "--eval-data", images, "--eval-every", "2")
    epochs = [e for e in Log.read(run / "log.jsonl") if "epoch_loss" in e]
    assert ["knn_top1" in e for e in epochs] == [False, True, True]
    assert all(0 <= e["knn_top1"] <= 100 for e in epochs[1:])
    feats = tmp_path / "f.npy"
    exact = ["--device", "cpu", "--precision", "fp32"]
    dino("embed", images, "--weights", run, "-o", feats, *exact)
    asked = json.loads(dino("knn", "--index", feats, "-k", "20", "--json").stdout)
    assert asked["k"]["20"]["top1"] == epochs[-1]["knn_top1"]


def test_knn_during_training_is_the_teachers(images, small, tmp_path):
    """A teacher that never moves answers as the network did at first, whatever the student does."""
    run = tmp_path / "run"
    words = ["--config", small, "-o", run, "--eval-data", images, "--momentum-teacher", "1"]
    dino("train", images, *words, "--lr", "0.5", "--warmup-epochs", "0")
    found = [e["knn_top1"] for e in Log.read(run / "log.jsonl") if "epoch_loss" in e]
    asked = {}
    for key in ("teacher", "student"):
        weights = ["--weights", run / "checkpoint.pt", "--checkpoint-key", key]
        options = ["-o", tmp_path / f"{key}.npy", "--device", "cpu", "--precision", "fp32"]
        dino("embed", images, *weights, *options)
        told = dino("knn", "--index", tmp_path / f"{key}.npy", "-k", "20", "--json").stdout
        asked[key] = json.loads(told)["k"]["20"]["top1"]
    assert found == [asked["teacher"]] * 3
    assert asked["student"] != asked["teacher"]


def test_knn_that_a_stop_cut_short_says_nothing_of_the_images(images, small, tmp_path, monkeypatch):
    def stopped(*_):
        raise StopOverdue

    monkeypatch.setattr("dino_cli.tasks.train.loop.teacher_knn", stopped)
    run = tmp_path / "run"
    words = ["--config", small, "-o", run, "--eval-data", images, "--epochs", "1"]
    assert "k-NN" not in dino("train", images, *words).stderr
    assert "knn_top1" not in Log.read(run / "log.jsonl")[-1]


def test_rates_are_of_all_images_of_a_step(images, small, tmp_path, monkeypatch):
    """With four images in each of two micro-batches; waiting is a share of the time."""
    stretch = Stretch(steps=1, seconds=2.0, waited=0.5)
    monkeypatch.setattr(Pace, "lap", lambda *_: stretch)
    flags = ["--config", small, "--max-steps", "1", "--batch-size", "4", "--accumulate", "2"]
    dino("train", images, *flags, "-o", tmp_path / "run")
    (line,) = Log.read(tmp_path / "run/log.jsonl")
    assert (line["images_per_second"], line["data_wait"]) == (4, 0.25)


@pytest.mark.slow
@pytest.mark.alone
def test_knn_between_epochs_is_not_time_of_training(images, small, tmp_path, monkeypatch):
    monkeypatch.setattr("dino_cli.tasks.train.loop.teacher_knn", lambda *_: time.sleep(2))
    run = tmp_path / "run"
    dino("train", images, "--config", small, "-o", run, "--eval-data", images, "--epochs", "2")
    rates = {e["step"]: e["images_per_second"] for e in Log.read(run / "log.jsonl") if "step" in e}
    assert 8 / rates[4] < 1  # seconds of the step after the first epoch


@pytest.mark.slow
def test_the_best_teacher_by_knn_is_kept(images, small, tmp_path, monkeypatch):
    """Also when the run goes on: one that is no better does not replace it, the best does."""
    found = iter([30.0, 50.0, 40.0, None, 50.0, 60.0])
    monkeypatch.setattr("dino_cli.tasks.train.loop.teacher_knn", lambda *_: next(found))
    run = tmp_path / "run"
    fixed = ["--config", small, "-o", run, "--eval-data", images, "--keep-every", "1"]
    dino("train", images, *fixed, "--epochs", "6", "--max-steps", "12")

    def teacher_of(epoch):
        state = torch.load(run / f"checkpoint-{epoch:04}.pt", weights_only=True)["teacher"]
        prefix = "backbone."
        return {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}

    def is_best(epoch):
        best, other = load_file(run / "teacher-best.safetensors"), teacher_of(epoch)
        return set(best) == set(other) and all(torch.equal(best[k], other[k]) for k in best)

    assert is_best(2)
    assert not is_best(3)
    dino("train", "--resume", run, "--max-steps", "20")
    assert is_best(2)
    dino("train", "--resume", run, "--max-steps", "24")
    assert is_best(6)
    best = run / "teacher-best.safetensors"
    dino("embed", images / "fish", "--weights", best, "-o", tmp_path / "f.npy", "--device", "cpu")


def test_checkpoints_are_written_every_so_many_steps_at_epochs_and_at_the_end(
    images, small, tmp_path
):
    run = tmp_path / "run"
    words = ["--config", small, "-o", run, "--save-every", "3", "--keep", "9", "--max-steps", "7"]
    dino("train", images, *words)
    found = [load_checkpoint(run / f"checkpoint{i}.pt")["step"] for i in ("", ".1", ".2", ".3")]
    assert found == [7, 6, 4, 3]  # of four steps an epoch
    assert not (run / "checkpoint.4.pt").exists()


@pytest.mark.slow
def test_a_stop_keeps_the_step_it_came_in_and_says_which(images, small, tmp_path, monkeypatch):
    """Also where images do not come any more; at the last step nothing is left to stop."""

    def stopped_at(step, words, code, read=None):
        steps = iter(range(100))

        def step_and_stop(*given, **options):
            if read is None and next(steps) == step:
                signal.raise_signal(signal.SIGTERM)
            return train_step(*given, **options)

        def read_or_not(feed):
            if read is not None and next(steps) == step:
                raise StopOverdue
            return read_next(feed)

        monkeypatch.setattr("dino_cli.tasks.train.loop.train_step", step_and_stop)
        monkeypatch.setattr(Feed, "read", read_or_not)
        return dino("train", *words, code=code)

    run, read_next = tmp_path / "run", Feed.read
    words = [images, "--config", small, "-o", run, "--max-steps", "8"]
    for step, read, done, given in ((1, None, 2, words), (3, True, 5, ["--resume", run])):
        said = stopped_at(step, given, 130, read).stderr
        assert f"stopped after step {done} of 12; go on with: dino train --resume {run}" in said
        assert load_checkpoint(run / "checkpoint.pt")["step"] == done
    stopped_at(2, ["--resume", run], 0)
    assert list(losses(run)) == list(range(8))


@pytest.mark.slow
def test_looking_and_judging_between_epochs_change_no_float(images, small, tmp_path):
    """Of a network with batch norm, which takes each batch as it comes only while it trains."""
    words = ["train", images, "--config", small, "--conv-stem", "--use-bn-in-head", "--watch"]
    dino(*words, "0", "-o", tmp_path / "alone")
    dino(*words, "2", "-o", tmp_path / "watched")
    dino(*words, "0", "-o", tmp_path / "judged", "--eval-data", images)
    for name in ("watched", "judged"):
        assert losses(tmp_path / name) == losses(tmp_path / "alone"), name


@pytest.mark.slow
def test_two_ranks_equal_one(images, small, tmp_path):
    dino("train", images, "--config", small, "-o", tmp_path / "one", "--drop-path", "0.2")
    command = [
        sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2",
        "--master-port", "29517", "-m", "dino_cli", "train", str(images), "--config", str(small),
        "-o", str(tmp_path / "two"), "--drop-path", "0.2", "--batch-size", "4",
    ]  # fmt: skip
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=180)
    assert done.returncode == 0, done.stderr
    one, two = losses(tmp_path / "one"), losses(tmp_path / "two")
    assert list(two.values()) == pytest.approx(list(one.values()), rel=1e-4)
    assert len(one) == len(two) == 12
