"""What a run of `dino train` will be: settings, their cost, the job that runs them."""

import json
import re
from dataclasses import fields

import pytest
from in_process import dino
from typer.testing import CliRunner

from dino_cli.cli.app import app
from dino_cli.config.resolve import OWN_VITS
from dino_cli.config.setting import flag_of
from dino_cli.config.train import TrainConfig
from dino_cli.core.network.architecture import VIT_SIZES
from dino_cli.errors import UsageError
from dino_cli.progress import Reporter
from dino_cli.tasks.train.check import check
from dino_cli.tasks.train.setup import (
    plan_of,
    preprocessing_of,
    schedules_of,
    view_schedule_of,
)


def test_settings_come_from_defaults_then_preset_then_file_then_flags(tmp_path):
    def resolved(*flags):
        return json.loads(dino("train", "photos", "--dry-run", *flags).stdout)

    file = tmp_path / "mine.toml"
    file.write_text("epochs = 17\nlocal-size = 40\nmean = [0.5]\n")
    assert resolved()["epochs"] == 100
    assert resolved("--preset", "demo")["epochs"] == 20
    both = resolved("--preset", "demo", "--config", file)
    assert (both["epochs"], both["local_size"], both["out_dim"]) == (17, 40, 256)
    assert both["mean"] == [0.5]
    assert resolved("--preset", "demo", "--config", file, "--epochs", "19")["epochs"] == 19


def test_sizes_in_a_file_are_written_in_three_ways(tmp_path):
    file = tmp_path / "mine.toml"
    for text, size in {"48": 48, '"48x32"': [48, 32], "[48, 32]": [48, 32], "[48, 48]": 48}.items():
        file.write_text(f"global-size = {text}\npatch-size = 8\n")
        made = json.loads(dino("train", "photos", "--config", file, "--dry-run").stdout)
        assert made["global_size"] == size


def test_another_architecture_does_not_take_the_size_of_the_presets(tmp_path):
    def network(*flags):
        made = json.loads(dino("train", "photos", "--dry-run", *flags).stdout)
        return [made[name] for name in ("arch", "width", "heads", "patch_size", "conv_stem")]

    small = ("--preset", "small-data")
    assert network(*small) == ["vit_tiny", 128, 4, 8, True]
    assert network(*small, "--arch", "vit_tiny", "--width", 96) == ["vit_tiny", 96, 4, 8, True]
    assert network(*small, "--arch", "vit_small") == ["vit_small", None, None, 8, True]
    assert network(*small, "--arch", "resnet18") == ["resnet18", None, None, 16, False]
    file = tmp_path / "mine.toml"
    file.write_text('arch = "resnet18"\n')
    assert network(*small, "--config", file) == ["resnet18", None, None, 16, False]
    file.write_text("width = 96\n")  # of whatever network it will be
    assert network("--config", file, "--arch", "vit_tiny")[:2] == ["vit_tiny", 96]
    refused = dino(
        "train", "photos", *small, "--arch", "resnet18", "--width", 96, "--dry-run", code=2
    )
    assert "--width applies to vit_tiny" in refused.stderr


def test_the_configuration_knows_our_vits():
    """It imports no torch, so it names them itself."""
    assert set(VIT_SIZES) == OWN_VITS


def test_no_number_of_a_run_may_be_negative():
    """Each option for itself, so that a new one is not forgotten."""
    refused = []
    for f in fields(TrainConfig):
        value = getattr(TrainConfig, f.name)
        if isinstance(value, bool) or not isinstance(value, int | float):
            continue
        with pytest.raises(UsageError, match=re.escape(f"{flag_of(f.name)} -1 ")):
            check(TrainConfig(**{f.name: -1}))
        refused.append(f.name)
    assert len(refused) > 30


def test_one_prototype_is_refused():
    """Its entropy is a share of ln 1."""
    with pytest.raises(UsageError, match=re.escape("--out-dim 1 must be at least 2")):
        check(TrainConfig(out_dim=1))


def test_the_size_of_local_views_that_are_not_made_is_not_checked():
    words = ["train", "photos", "--patch-size", "14", "--final-size", "238", "100", "--dry-run"]
    refused = dino(*words, code=2)
    assert "--final-size 100 is not a whole number of 14-pixel patches" in refused.stderr
    dino(*words, "--local-crops-number", "0")
    words = ["train", "photos", "--arch", "vit_base_patch14_dinov2", "--global-size", "28"]
    words += ["--final-size", "28", "10", "--dry-run"]
    assert "cannot take views of 10 px" in dino(*words, code=2).stderr
    dino(*words, "--local-crops-number", "0")


def test_a_dry_run_prints_the_warmup_that_will_be():
    for flags, epochs in {(): 10, ("--epochs", "5"): 0.5, ("--warmup-epochs", "3"): 3}.items():
        shown = json.loads(dino("train", "photos", "--dry-run", *flags).stdout)
        assert shown["warmup_epochs"] == epochs


def test_schedules_are_those_of_the_options():
    config = TrainConfig(
        epochs=5, batch_size=32, accumulate=4, lr=0.002, warmup_epochs=2, min_lr=1e-5,
        weight_decay=0.1, weight_decay_end=0.5, momentum_teacher=0.9, freeze_last_layer=2,
        warmup_teacher_temp=0.03, teacher_temp=0.06, warmup_teacher_temp_epochs=4,
    )  # fmt: skip
    steps = schedules_of(config, plan_of(config, 300), Reporter())
    at = [steps.at(step) for step in range(10)]  # two each epoch
    assert at[3].lr == max(one.lr for one in at) == pytest.approx(0.002 * 128 / 256)
    assert 1e-5 < at[9].lr < at[8].lr
    temperatures = [0.03, 0.04, 0.05, 0.06, 0.06]
    assert [one.teacher_temperature for one in at[::2]] == pytest.approx(temperatures)
    assert [one.freeze_last_layer for one in at] == [step < 4 for step in range(10)]
    assert (at[0].momentum, at[0].weight_decay) == pytest.approx((0.9, 0.1))
    assert 0.99 < at[9].momentum < 1
    assert 0.48 < at[9].weight_decay < 0.5


def test_views_are_the_papers_unless_told_otherwise():
    views = view_schedule_of(TrainConfig(local_crops_number=3))
    (first, second), local = views.globals_, views.locals_
    assert (first.blur_prob, second.blur_prob, local[0].blur_prob) == (1.0, 0.1, 0.5)
    assert (first.solarize_prob, second.solarize_prob, local[0].solarize_prob) == (0, 0.2, 0)
    assert first.scale == second.scale == (0.4, 1)
    assert [one.scale for one in local] == [(0.05, 0.4)] * 3
    assert (first.size, local[0].size) == (224, 96)
    larger = TrainConfig(final_size=(448, 192), final_share=0.1)
    assert preprocessing_of(larger).crop == 448
    assert preprocessing_of(TrainConfig(final_size=(448, 192), final_share=0)).crop == 224


def test_the_job_script_as_json():
    words = ["train", "photos", "-o", "run", "--epochs", "7", "--print-sbatch"]
    plain = dino(*words).stdout
    assert json.loads(dino(*words, "--json").stdout) == {"sbatch": plain}
    assert "--epochs 7" in plain
    assert "--json" not in plain


def test_the_job_script_is_of_a_run_that_can_be():
    words = ["train", "photos", "-o", "run", "--print-sbatch"]
    for flags, said in {
        ("--gpus", "four"): "--gpus 'four' is neither all nor a number",
        ("--gpus", "0"): "--gpus '0' is neither all nor a number",
        ("--batch-size", "0"): "--batch-size 0 must be at least 1",
    }.items():
        assert said in dino(*words, *flags, code=2).stderr


def test_a_job_has_a_core_for_each_process_that_loads_and_one_for_each_gpu():
    words = ["train", "photos", "-o", "my run", "--gpus", "4", "--workers", "6", "--print-sbatch"]
    script = dino(*words).stdout
    for line in (
        "#SBATCH --gpus-per-node=4",
        "#SBATCH --cpus-per-task=28",
        "#SBATCH --signal=USR1@300 ",
        "run='my run'\n",
        '  command=(train --resume "$run")\n',
        "  command=(train --output 'my run' --gpus 4 --workers 6 -- photos)\n",
    ):
        assert line in script
    (handled,) = (line for line in script.splitlines() if "--signals-to-handle" in line)
    assert {"SIGTERM", "SIGINT", "SIGUSR1"} <= set(handled.split()[1].split(","))
    named = dino("train", "photos", "--print-sbatch").stdout
    assert "run=runs/dino\n" in named
    assert "  command=(train -o runs/dino -- photos)\n" in named


def test_a_job_that_goes_on_with_a_run_keeps_the_flags(images, small, tmp_path):
    run = tmp_path / "run"
    dino("train", images, "--config", small, "-o", run, "--max-steps", "1")
    words = ["train", "--resume", run, "--lr", "0.001", "--max-steps", "2"]
    script = dino(*words, "--print-sbatch").stdout
    kept = [line for line in script.splitlines() if "command=(" in line]
    assert len(kept) == 2
    assert all("--lr 0.001" in line and "--max-steps 2" in line for line in kept)


def test_names_of_timm_that_begin_with_what_was_typed_are_offered_first():
    for typed, offered in {
        "vit_large": "vit_large_patch16_224, vit_large_patch16_384, vit_large_patch14_224",
        "vit_smal": "vit_small, vit_small_patch8_224, vit_small_patch16_224",
        "resent50": "resnet50",
    }.items():
        said = dino("train", "photos", "--dry-run", "--arch", typed, code=2).stderr
        assert f"unknown architecture '{typed}'; did you mean {offered}" in said


def test_configuration_files_are_checked(tmp_path):
    file = tmp_path / "mine.toml"
    for text, expected in {
        "epoch = 3": "did you mean 'epochs'",
        'epochs = "three"': "epochs to 'three'",
        "epochs = true": "epochs to True",
        "jitter = [1, 2]": "jitter to [1, 2]",
        "lr = nan": "must be finite",
        f"epochs = 1{400 * '0'}": "beyond 64 bits",
        f"seed = {2**63}": "beyond 64 bits",
        f"jitter = [{-(2**63) - 1}]": "beyond 64 bits",
        "lr = true": "lr to True, which is not a number",
        "dry-run = true": "sets 'dry-run', which only a flag can",
        'global-size = "32 by 16"': "global-size to '32 by 16', which is not a size; write 480 or",
        'optimizer = "adam"': "optimizer to 'adam'",
        "epochs = = 3": "not a TOML file",
    }.items():
        file.write_text(text)
        result = CliRunner().invoke(app, ["train", "x", "--dry-run", "--config", str(file)])
        assert result.exit_code in (1, 2)
        assert expected in result.stderr, result.output


@pytest.mark.slow
def test_the_cost_of_a_run(images, small):
    """FLOPs as in the paper's model: 114 GFLOP an image for ViT-S/16 with two large and eight small
    views (4.6 GMAC a large view); parameters as timm counts them."""
    plan = json.loads(
        dino("train", images, "--dry-run", "--json", "--batch-size", "4", "--device", "cpu").stdout
    )
    cost = plan["cost"]
    assert plan["arch"] == "vit_small"
    assert cost["parameters"]["backbone"] == 21_665_664
    assert cost["gflop_per_image"] == pytest.approx(114, rel=0.02)
    assert (cost["images"], cost["steps"]) == (33, 800)
    hours = 800 * 4 / cost["images_per_second"] / 3600
    assert cost["hours"] == pytest.approx(hours, rel=0.05)
    weights = 20 * sum(cost["parameters"].values()) / 2**30
    assert cost["memory_gib"] > weights
    elsewhere = json.loads(
        dino("train", "not/here", "--config", small, "--dry-run", "--json").stdout
    )["cost"]
    assert elsewhere["hours"] is None
    assert elsewhere["images_per_second"] > 0


@pytest.mark.slow
def test_hours_are_those_of_the_steps_that_will_be_taken(images, small):
    words = ["train", images, "--config", small, "--epochs", "1000000", "--max-steps", "1000000"]
    cost = json.loads(dino(*words, "--dry-run", "--json").stdout)["cost"]
    assert cost["steps"] == 1_000_000  # of four million
    hours = 1_000_000 * 8 / cost["images_per_second"] / 3600
    assert cost["hours"] == pytest.approx(hours, rel=0.05)

    # Views that are twice as wide for all of it cost as if they were that large from the start.
    words = ["train", images, "--config", small, "--epochs", "1000000"]
    large = ["--global-size", "32", "--local-size", "16"]
    then = [*large, "--final-size", "64", "32", "--final-share"]

    def told(*sizes):
        return json.loads(dino(*words, *sizes, "--dry-run", "--json").stdout)["cost"]

    whole, none = told(*then, "1"), told(*then, "0")
    at_once = told("--global-size", "64", "--local-size", "32")
    times = at_once["gflop_per_image"] / whole["gflop_per_image"]
    for cost, slower in ((whole, times), (none, 1), (told(*then, "0.25"), 0.75 + times / 4)):
        hours = cost["steps"] * 8 / cost["images_per_second"] / 3600
        assert cost["hours"] == pytest.approx(hours * slower, rel=0.05)
    assert whole["memory_gib"] >= none["memory_gib"]
