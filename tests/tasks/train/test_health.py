"""Runs that go wrong on purpose, and what `dino train` says about them."""

import json

import pytest
from heard import Heard
from small_run import small_config
from typer.testing import CliRunner

from dino_cli.cli.app import app
from dino_cli.config.train import TrainConfig
from dino_cli.data.views.batches import BatchPlan
from dino_cli.progress import Reporter
from dino_cli.store.runs.log import Log
from dino_cli.tasks.demo.draw import draw_folder
from dino_cli.tasks.train.diagnosis import Diagnosis

TINY = small_config(
    batch_size=16,
    epochs=30,
    log_every=5,
    warmup_epochs=2,
    watch=0,
    keep_every=0,
    use_bn_in_head=True,
    lr=0.02,
)


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "drawn"
    draw_folder(folder, count=64, size=40, seed=0, style="final", reporter=Reporter(), masks=False)
    return folder / "images"


def run(images, tmp_path, *flags):
    """stderr without progress, and the lines of the log."""
    tmp_path.mkdir(exist_ok=True)
    config = tmp_path / "tiny.toml"
    config.write_text(TINY)
    out = tmp_path / "run"
    command = ["train", images, "--config", config, "-o", out, *flags]
    result = CliRunner().invoke(app, [str(word) for word in command])
    assert result.exit_code == 0, result.output
    # Nothing reads images ahead here, so some may well be waited for.
    said = [
        line
        for line in result.stderr.splitlines()
        if "training" not in line and "waiting for images" not in line
    ]
    return said, [entry for entry in Log.read(out / "log.jsonl") if "step" in entry]


@pytest.mark.slow
def test_a_healthy_run_is_left_alone(images, tmp_path):
    said, entries = run(images, tmp_path)
    assert said == []
    assert entries[-1]["target_spread"] > 0.3
    assert entries[-1]["loss"] < entries[0]["loss"]


@pytest.mark.slow
def test_a_hot_teacher_is_told_as_uniform_collapse(images, tmp_path):
    said, entries = run(images, tmp_path, "--teacher-temp", "1", "--warmup-teacher-temp", "1")
    assert len(said) == 1
    assert "uniform collapse: for" in said[0]
    assert "--teacher-temp 0.04 --warmup-teacher-temp 0.04" in said[0]
    assert entries[-1]["entropy_share"] > 0.97


@pytest.mark.slow
def test_no_centring_is_told_as_point_collapse(images, tmp_path):
    said, entries = run(
        images, tmp_path, "--center-momentum", "1", "--momentum-teacher", "0.9", "--lr", "0.05"
    )
    assert len(said) == 1
    assert "point collapse: for" in said[0]
    assert "--center-momentum 0.9 (the centre hardly moves now)" in said[0]
    assert entries[-1]["entropy_share"] < 0.2


@pytest.mark.slow
@pytest.mark.parametrize("batch", [2, 4])
def test_small_batches_are_told_of_too(images, tmp_path, batch):
    """Also where the run ends before anything could last."""
    small = ["--batch-size", str(batch), "--max-steps", "80"]
    said, entries = run(images, tmp_path / "sound", *small)
    assert said == []
    assert min(entry["target_spread"] for entry in entries) > 0.5
    point = ["--center-momentum", "1", "--momentum-teacher", "0.9", "--lr", str(0.8 / batch)]
    (line,), entries = run(images, tmp_path / "point", *small, *point)
    assert "point collapse: for" in line
    assert "--center-momentum 0.9 (the centre hardly moves now)" in line
    assert entries[-1]["target_spread"] < 0.01


@pytest.mark.slow
def test_a_learning_rate_too_high_is_told(images, tmp_path):
    said, _ = run(images, tmp_path, "--lr", "2", "--warmup-epochs", "0")
    assert any("the learning rate is too high" in line and "--lr 0.2" in line for line in said)


@pytest.mark.parametrize(
    ("workers", "cores", "processes", "way"),
    [
        (1, 4, 1, "go on with --workers 2"),
        (4, 4, 1, "all 4 cores read images already"),
        (3, 4, 8, "go on with --workers 4"),
        (10, 4, 8, "all 32 cores read images already"),
    ],
)
def test_waiting_for_images_is_told_once(monkeypatch, workers, cores, processes, way):
    for where in ("runtime.devices", "tasks.train.diagnosis"):
        monkeypatch.setattr(f"dino_cli.{where}.available_cores", lambda: cores * processes)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(processes))
    heard = Heard()
    plan = BatchPlan(images=1000, epochs=10, batch=10, seed=0)
    diagnosis = Diagnosis(TrainConfig(workers=workers), plan, heard)
    entry = dict.fromkeys(("target_spread", "entropy_share", "update_ratio", "loss"))
    for step in range(40):
        diagnosis.see({**entry, "step": step, "data_wait": 0.5}, seconds=2.0)
    assert len(heard.remarks) == 1
    assert heard.remarks[0].startswith("50 % of the time goes into waiting for images")
    assert way in heard.remarks[0]


@pytest.mark.parametrize(
    ("optimizer", "ratio", "said"),
    [("lars", 0.021, None), ("lars", 0.08, "0.5 to 2 %"), ("adamw", 0.02, "0.05 to 0.3 %")],
)
def test_a_rate_is_judged_by_its_optimizer_and_after_the_warmup(optimizer, ratio, said):
    """LARS at the rate of the original's ResNet-50: 1.2 to 2.1 % of the weights' length a step."""
    heard = Heard()
    plan = BatchPlan(images=1000, epochs=20, batch=10, seed=0)
    config = TrainConfig(epochs=20, warmup_epochs=5, optimizer=optimizer)
    diagnosis = Diagnosis(config, plan, heard)
    entry = dict.fromkeys(("target_spread", "entropy_share", "loss"))
    for step in range(0, 1000, 10):
        warming = step < 500
        diagnosis.see(
            {**entry, "step": step, "data_wait": 0.0, "update_ratio": 0.2 if warming else ratio},
            seconds=1.0,
        )
        if warming:
            assert heard.remarks == []
    assert len(heard.remarks) == (said is not None)
    assert all(f"({said} is usual)" in remark for remark in heard.remarks)
    assert all("start anew with --lr 5e-05 or a longer" in remark for remark in heard.remarks)


HEALTHY = {
    "photos": [39.3, 36.9, 31.5, 25.6, 23.8, 21.9, 20.1, 20.5, 19.2, 20.5, 20.3, 19.3, 20.7, 20.7,
               20.3, 21.3, 20.3, 21.6, 20.7, 19.9, 19.3],
    "drawings": [20.7, 12.2, 11.1, 12.6, 14.4, 13.3, 14.3, 15.3, 15.1, 14.9, 15.0, 15.9, 15.2, 15.0,
                 16.1, 16.9, 17.0, 15.6, 17.0, 17.5, 18.1, 17.2, 17.0],
    "narrow": [4.0, 3.0, 2.5, 2.2, 2.0, 2.0, 1.9, 1.8, 1.9, 2.0, 2.0, 2.1],  # a tiny network
}  # fmt: skip


def told(ranks, *, every=50, seen=0, **options):
    """What is said about a series of ranks, of which the first `seen` are another process's."""
    heard = Heard()
    plan = BatchPlan(images=64 * 100, epochs=20, batch=64, seed=0)
    config = TrainConfig(epochs=20, warmup_epochs=0.5, **options)
    diagnosis = Diagnosis(config, plan, heard)
    entry = {"target_spread": 0.42, "entropy_share": 0.3, "loss": 3.0, "update_ratio": 0.001}
    lines = [
        {**entry, "step": i * every, "data_wait": 0.0, "feature_rank": rank}
        for i, rank in enumerate(ranks)
    ]
    diagnosis.recall([*lines[:seen], {"epoch": 0, "epoch_loss": 1.0}])
    for line in lines[seen:]:
        diagnosis.see(line, seconds=1.0)
    return heard.remarks


@pytest.mark.parametrize("name", HEALTHY)
def test_a_rank_that_settles_is_no_diagnosis(name):
    assert told(HEALTHY[name]) == []


@pytest.mark.parametrize("seen", [0, 25])
def test_a_rank_that_is_lost_is_told_once(seen):
    """From 17 to 3 as it was seen, with a spread that no other diagnosis takes for a collapse."""
    falling = [30, 24, *[17.0] * 8, *(17 - 14 * i / 30 for i in range(30)), *[3.0] * 20]
    (said,) = told(falling, seen=seen, momentum_teacher=0.99, lr=0.004, batch_size=64)
    assert said.startswith("features lose rank: they use ")
    assert "17.0 at step 300" in said
    assert "--momentum-teacher 0.996, --lr 0.002, or a larger batch (--batch-size 128)" in said
    assert "--koleo-weight 0.1" in said
    assert told(falling[:25], momentum_teacher=0.99) == []
    (said,) = told(falling, seen=seen, koleo_weight=0.1)
    assert "--koleo-weight" not in said


def test_a_rank_that_comes_back_is_not_told():
    dips = [*[17.0] * 8, 3.0, 3.0, 3.0, *[15.0] * 8, *[3.0] * 4, *[15.0] * 10]
    assert told(dips) == []
    assert "--momentum-teacher 0.998" in told([*dips, *[2.0] * 20], momentum_teacher=0.996)[0]


def test_the_log_is_json_for_everyone(images, tmp_path):
    run(images, tmp_path, "--max-steps", "6")
    for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines():
        json.loads(line, parse_constant=pytest.fail)
