"""What people type and see: names, defaults, help, where output goes, how fast it answers."""

import itertools
import json
import resource
import subprocess
import sys
import time
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from typing import Literal

import pytest
from in_process import command_tree
from typer.testing import CliRunner

from dino_cli import config
from dino_cli.cli.app import app
from dino_cli.cli.display import Terminal
from dino_cli.config.setting import options
from dino_cli.config.train import TrainConfig
from dino_cli.config.values import as_type
from dino_cli.errors import UsageError

# The original's names and defaults, under ours.
ORIGINAL = {
    "arch": "vit_small", "patch_size": 16, "out_dim": 65536, "norm_last_layer": True,
    "momentum_teacher": 0.996, "use_bn_in_head": False, "warmup_teacher_temp": 0.04,
    "teacher_temp": 0.04, "warmup_teacher_temp_epochs": 0, "weight_decay": 0.04,
    "weight_decay_end": 0.4, "clip_grad": 3.0, "batch_size": 64, "epochs": 100,
    "freeze_last_layer": 1, "lr": 0.0005, "min_lr": 1e-6, "optimizer": "adamw",
    "drop_path": 0.1, "global_crops_scale": [0.4, 1.0], "local_crops_number": 8,
    "local_crops_scale": [0.05, 0.4], "seed": 0, "workers": 10, "keep_every": 20,
    "global_size": 224, "local_size": 96, "head_hidden": 2048, "head_bottleneck": 256,
    "center_momentum": 0.9, "jitter": [0.4, 0.4, 0.2, 0.1],
}  # fmt: skip


EXACT = ("all", "linear", "segmentation", "video", "retrieval", "copies")


def subcommands():
    group = command_tree()
    found = {}
    for name, command in group.commands.items():
        for inner, sub in getattr(command, "commands", {None: command}).items():
            found[f"{name} {inner}" if inner else name] = sub
    return found


def test_train_has_the_originals_options_and_defaults():
    shown = CliRunner().invoke(app, ["train", "photos", "--dry-run"])
    resolved = json.loads(shown.stdout)
    assert {name: resolved[name] for name in ORIGINAL} == ORIGINAL


def configs():
    modules = [import_module(f"dino_cli.config.{m.name}") for m in iter_modules(config.__path__)]
    return {
        name: value
        for module in modules
        for name, value in vars(module).items()
        if name.endswith("Config")
    }


def test_every_option_says_what_it_is_for():
    assert len(configs()) > 20
    for name, kind in configs().items():
        told = [field for field in options(kind) if "help" in field.metadata]
        assert told or not options(kind), name
        for field in told:
            assert len(field.metadata["help"]) > 10, f"{name}.{field.name}"
    assert all("help" in field.metadata for field in options(TrainConfig))


@pytest.mark.parametrize("name", subcommands())
def test_every_command_has_help(name):
    result = CliRunner().invoke(app, [*name.split(), "--help"])
    assert result.exit_code == 0
    assert "TODO" not in result.stdout
    assert len(result.stdout) > 300


def test_result_goes_to_stdout_and_progress_to_stderr(capsys):
    terminal = Terminal()
    with terminal:
        terminal.stage("reading", 3)
        terminal.advance(3)
        terminal.remark("k=200 but the index has 90 images; using 90")
        terminal.finish()
        terminal.table("", ["k", "top-1"], [["20", "80.75"]])
    out, err = capsys.readouterr()
    assert out == "k\ttop-1\n20\t80.75\n"
    assert err.splitlines()[0] == "dino: k=200 but the index has 90 images; using 90"
    assert "reading 3/3 images" in err


def test_quiet_and_json_print_no_more_than_asked(capsys):
    terminal = Terminal(json=True, quiet=True)
    with terminal:
        terminal.stage("reading", 3)
        terminal.advance(3)
        terminal.remark("a remark")
        terminal.finish()
        terminal.table("", ["k"], [["20"]])
        terminal.line("a line")
    assert capsys.readouterr() == ("", "")


def test_a_resumed_stage_reports_the_rate_of_now_and_the_time_left(capsys, monkeypatch):
    terminal = Terminal()
    clock = itertools.chain([0.0], itertools.repeat(20.0))
    monkeypatch.setattr(time, "monotonic", lambda: next(clock))
    with terminal:
        terminal.stage("training", 2000, done=1000)
        terminal.advance(100)
        assert "training 1100/2000 images, 5 images/s, 3:00 left\n" in capsys.readouterr().err
        terminal.advance(900)
        terminal.finish()
    assert "training 2000/2000 images, 50 images/s\n" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.alone
def test_help_answers_at_once():
    """Near an empty Python: nothing heavy is imported before a command.

    In seconds of a core, of which torch takes 2, the help .2 on a quiet machine, .5 on a busy one.
    """

    def fastest(*arguments):
        times = []
        for _ in range(5):
            before = resource.getrusage(resource.RUSAGE_CHILDREN)
            subprocess.run([sys.executable, *arguments], check=True, capture_output=True)
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            times.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
        return min(times)

    assert fastest("-m", "dino_cli", "--help") - fastest("-c", "pass") < 1


@pytest.mark.parametrize(
    ("name", "default"),
    [
        *((f"eval {name}", "fp32") for name in EXACT),
        ("eval knn", "auto"),
        ("knn", "auto"),
        ("embed", "auto"),
    ],
)
def test_evaluations_are_in_the_precision_of_the_originals(name, default):
    (option,) = (p for p in subcommands()[name].params if p.name == "precision")
    assert option.default == default


@pytest.mark.parametrize(
    ("words", "key", "value"),
    [
        (["--local-crops-scale", ".1", ".5"], "local_crops_scale", [0.1, 0.5]),
        (["--local-crops-scale", ".1,.5"], "local_crops_scale", [0.1, 0.5]),
        (["--final-size", "64,32"], "final_size", [64, 32]),
        (["--mean", ".5,.4,-.6"], "mean", [0.5, 0.4, -0.6]),
        (["--mean", ".5", ".4", "-.6"], "mean", [0.5, 0.4, -0.6]),
    ],
)
def test_several_numbers_are_parted_by_spaces_or_commas(words, key, value):
    command = command_tree().commands["train"]
    with command.make_context("train", ["photos", *words]) as context:
        assert list(context.params[key]) == value


def test_numbers_that_are_too_few_are_told_with_the_command():
    result = CliRunner().invoke(app, ["train", "photos", "--jitter", "1,2,3"])
    assert result.exit_code == 2
    assert "'--jitter' requires 4 arguments; see dino train --help" in result.stderr


@pytest.mark.parametrize(
    ("hint", "value", "wanted"),
    [
        (int, "128", "'128', which is not a whole number"),
        (float, True, "True, which is not a number"),
        (bool, "yes", "'yes', which is not true or false"),
        (tuple[float, float], [1], "[1], which is not a list of 2: [a number, …]"),
        (Literal["auto", "cpu"] | None, "gpu", '\'gpu\', which is not one of "auto", "cpu"'),
        (Path, 3, "3, which is not a path in quotes"),
    ],
)
def test_a_file_that_sets_an_option_wrongly_is_told_what_it_takes(hint, value, wanted):
    with pytest.raises(UsageError) as caught:
        as_type(value, hint, "key", Path("d.toml"), "dino eval video")
    assert str(caught.value) == f"d.toml sets key to {wanted}; see dino eval video --help"
