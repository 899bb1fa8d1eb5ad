"""Steps that changed nothing: which of them end a run, and what is said of the others."""

from pathlib import Path

import pytest
import torch
from heard import Heard

from dino_cli.config.train import TrainConfig
from dino_cli.core.training.step import StepResult
from dino_cli.errors import TaskError
from dino_cli.store.runs.checkpoints import CheckpointWriter
from dino_cli.store.runs.folder import RunFolder
from dino_cli.tasks.train.skips import Skips


def skips(run: Path, *, precision="fp32", **options):
    """Of a run in that folder, and what it says."""
    heard = Heard()
    writer = CheckpointWriter(RunFolder(run), keep=2)
    config = TrainConfig(**options)
    return Skips(config, writer, precision, torch.device("cpu"), heard), heard.remarks


def step(*, skipped=0, overflowed=0):
    nothing = torch.zeros(())
    return StepResult(
        loss=nothing,
        gradient_norm=nothing,
        skipped=torch.tensor(float(skipped)),
        overflowed=torch.tensor(float(overflowed)),
    )


def test_skipped_steps_are_told_once_each_and_end_nothing_while_others_are_between(tmp_path):
    seen, remarks = skips(tmp_path)
    for i, skipped in enumerate([1, 1, 0, 1, 0, 0, 1, 1, 0, 0, 0, 1]):
        seen.count(step(skipped=skipped))
        if i % 2:
            seen.tell(i)
    assert [remark.partition(" with a loss")[0] for remark in remarks] == [
        "up to step 1, 2 steps",
        "up to step 3, 1 step",
        "up to step 7, 2 steps",
        "up to step 11, 1 step",
    ]


@pytest.mark.parametrize("told_between", [False, True])
def test_three_skipped_steps_in_a_row_end_the_run(tmp_path, told_between):
    """Also where a good one follows before it is told, or a line of the log lies between."""
    seen, _ = skips(tmp_path)
    for i in range(3):
        if i == 2 and told_between:
            seen.tell(1)
        seen.count(step(skipped=1))
    if not told_between:
        seen.count(step())
    with pytest.raises(TaskError, match="not finite in 3 steps in a row, up to step 3;"):
        seen.tell(3)


@pytest.mark.parametrize(
    ("precision", "clip_grad", "ways"),
    [
        ("fp32", 0.3, "--lr 0.001"),
        ("bf16", 0.3, "--lr 0.001 or --precision fp32"),
        ("fp32", 0.0, "--lr 0.001 or --clip-grad 0.3"),
        ("bf16", 3.0, "--lr 0.001 or --precision fp32 or --clip-grad 0.3"),
    ],
)
@pytest.mark.parametrize("saved", [False, True])
def test_the_way_on_is_with_what_was_not_tried_yet(tmp_path, precision, clip_grad, ways, saved):
    seen, _ = skips(tmp_path, precision=precision, lr=0.002, clip_grad=clip_grad)
    if saved:
        seen.writer.save({"format": 1, "step": 1}, {}, {})  # which is waited for
    for _ in range(3):
        seen.count(step(skipped=1))
    begin = f"dino train --resume {tmp_path}" if saved else "a new run and"
    with pytest.raises(TaskError) as raised:
        seen.tell(2)
    assert raised.value.fix == f"go on with: {begin} {ways}"


def test_twenty_overflows_in_a_row_end_the_run_or_a_scale_below_one(tmp_path):
    seen, _ = skips(tmp_path, precision="fp16")
    for overflowed in [*[1] * 19, 0, *[1] * 19]:
        seen.count(step(overflowed=overflowed))
        seen.tell_overflows(1.0, 38)
    with pytest.raises(TaskError, match=r"in 19 steps .* scale is down to 0\.5; "):
        seen.tell_overflows(0.5, 38)
    seen.count(step(overflowed=1))
    with pytest.raises(TaskError, match="in 20 steps in a row up to step 39"):
        seen.tell_overflows(2.0, 39)
