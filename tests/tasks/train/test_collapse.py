"""What is told of targets that become all the same, and when."""

import math

import pytest
from heard import Heard

from dino_cli.config.train import TrainConfig
from dino_cli.data.views.batches import BatchPlan
from dino_cli.tasks.train.diagnosis import Diagnosis


def told_of_a_point(*, seen=0, batch=16, spreads=(0.01,), count=20, every=10, end=False, epochs=10):
    """What is said about lines whose images get nearly one target, the first `seen` recalled.

    spreads: of the lines, over and over. end: also at the end of the run.
    """
    heard = Heard()
    plan = BatchPlan(images=1000, epochs=epochs, batch=16, seed=0)  # 10: soon enough to be told
    diagnosis = Diagnosis(TrainConfig(batch_size=batch), plan, heard)
    entry = {"target_spread": 0.01, "entropy_share": 0.1, "loss": 1.0, "update_ratio": 0.001}
    lines = [
        {**entry, "step": every * i, "data_wait": 0.0, "target_spread": spreads[i % len(spreads)]}
        for i in range(count)
    ]
    diagnosis.recall(lines[:seen])
    assert heard.remarks == []
    for line in lines[seen:]:
        diagnosis.see(line, seconds=1.0)
    if end:
        diagnosis.end()
    return heard.remarks


def test_a_collapse_is_told_at_once_when_a_run_goes_on():
    (whole,) = told_of_a_point()
    assert whole.startswith("point collapse: for 50 steps")
    (later,) = told_of_a_point(seen=4)
    assert later == whole
    (again,) = told_of_a_point(seen=19)  # the person who goes on may not have seen it
    assert again.startswith("point collapse: for 190 steps")


@pytest.mark.parametrize("batch", [2, 4, 7])
def test_few_images_are_judged_by_several_lines(batch):
    """As larger batches, where there is no spread; else by the mean, to a bar that they can pass.

    Two images differ by ln 2 at most, and by nothing where both are of one kind.
    """
    (said,) = told_of_a_point(batch=batch)
    assert said.startswith("point collapse: for 50 steps")
    high = 0.35 * math.log(batch) / math.log(8)
    assert told_of_a_point(batch=batch, spreads=[high]) == []
    assert told_of_a_point(batch=batch, spreads=[0.0, 0.0, 5 * high, 0.0, 0.0]) == []
    assert len(told_of_a_point(batch=batch, spreads=[high / 2])) == 1
    assert len(told_of_a_point(batch=16, spreads=[0.0, 0.0, 0.25, 0.0, 0.0])) == 1


def test_one_image_says_nothing_of_others():
    assert told_of_a_point(batch=1) == []


@pytest.mark.parametrize(
    ("spreads", "said"),
    [
        ([1.5, 1.5, 0.0, 0.0, 0.0], ["point collapse: for 20 steps"]),
        ([1.5, 1.5, 1.5, 0.0, 0.0], []),  # too short
        ([1.5, 0.0, 0.0, 0.0, 1.5], []),  # over
        ([0.0, 0.0, 0.0, 0.0, 0.0], []),  # so begins a slow run, too
    ],
)
@pytest.mark.parametrize(("batch", "lines"), [(16, 1), (4, 5)])
def test_a_run_that_ends_early_is_judged_by_its_last_lines(spreads, said, batch, lines):
    """Of a small batch five of them have to agree. lines: with each spread, 10 steps in all."""
    spreads = [one for one in spreads for _ in range(lines)]
    run = {"batch": batch, "spreads": spreads, "count": len(spreads), "every": 10 // lines}
    assert [one.partition(" the")[0] for one in told_of_a_point(**run, end=True)] == said
    assert told_of_a_point(**run) == []
    assert told_of_a_point(**run, end=True, epochs=100) == []  # of a long run it is the beginning


def told_of_a_collapse(share, *, steps=2000, every=10, missing=(), **options):
    """What is said about targets without a spread, whose entropy is that share of ln K, and at
    which step. missing: lines that have no figures."""
    heard, said = Heard(), {}
    plan = BatchPlan(images=16 * 100, epochs=steps // 100, batch=16, seed=0)
    config = TrainConfig(epochs=steps // 100, batch_size=16, **options)
    diagnosis = Diagnosis(config, plan, heard)
    for step in range(0, 1500, every):
        known = step not in missing
        entry = {"entropy_share": share if known else None, "loss": 1.0 if known else None}
        entry |= {"target_spread": 0.0 if known else None, "update_ratio": 0.001}
        diagnosis.see({**entry, "step": step, "data_wait": 0.0}, seconds=1.0)
        for remark in heard.remarks:
            said.setdefault(remark, step)
    ((remark, step),) = said.items()
    return remark, step


def test_a_collapse_has_lasted_a_twentieth_of_the_run_or_fifty_steps_or_a_thousand():
    """And since the last line whose figures were numbers that are none."""
    for steps, patience in {200: 50, 2000: 100, 10_000: 500, 100_000: 1000}.items():
        assert told_of_a_collapse(0.1, steps=steps)[1] == patience
    remark, step = told_of_a_collapse(0.1, missing=(60,))
    assert (step, remark.partition(":")[2][:14]) == (170, " for 100 steps")


@pytest.mark.parametrize(
    ("options", "ways"),
    [
        ({"warmup_teacher_temp": 0.05, "teacher_temp": 0.05, "freeze_last_layer": 2},
         "--teacher-temp 0.04 --warmup-teacher-temp 0.04 (a hot teacher is flat), or "
         "--use-bn-in-head (small data needs it), or --lr 0.001"),
        ({"warmup_teacher_temp": 0.04, "teacher_temp": 0.08, "use_bn_in_head": True},
         "--teacher-temp 0.04 --warmup-teacher-temp 0.04 (a hot teacher is flat), or "
         "--freeze-last-layer 2, or --lr 0.001"),
        ({"warmup_teacher_temp": 0.04, "teacher_temp": 0.07, "freeze_last_layer": 0.5},
         "--warmup-teacher-temp 0.02, or --use-bn-in-head (small data needs it), or "
         "--freeze-last-layer 1.5, or --lr 0.001"),
    ],
)  # fmt: skip
def test_what_helps_against_uniform_targets_is_what_is_not_tried_yet(options, ways):
    remark, _ = told_of_a_collapse(0.98, lr=0.002, **options)
    assert remark.startswith("uniform collapse: for 100 steps")
    assert remark.endswith(f"; start anew with {ways}")


@pytest.mark.parametrize(
    ("options", "ways"),
    [
        ({"center_momentum": 0.999, "teacher_temp": 0.03, "warmup_teacher_temp": 0.03},
         "--center-momentum 0.9 (the centre hardly moves now), or --center-init batch, or "
         "--teacher-temp 0.04, or --lr 0.001"),
        ({"center_momentum": 0.9, "center_init": "batch", "teacher_temp": 0.04}, "--lr 0.001"),
    ],
)  # fmt: skip
def test_what_helps_against_one_prototype_is_what_is_not_tried_yet(options, ways):
    remark, _ = told_of_a_collapse(0.1, lr=0.002, **options)
    assert remark.startswith("point collapse: for 100 steps")
    assert remark.endswith(f"; start anew with {ways}")


@pytest.mark.parametrize(("spread", "said"), [(0.0, True), (0.05, False)])
def test_equal_targets_are_a_collapse_though_the_loss_is_low_for_a_moment(spread, said):
    """A centre that overshoots makes one target of low loss on its way from a point to uniform."""
    heard = Heard()
    plan = BatchPlan(images=1000, epochs=10, batch=16, seed=0)
    diagnosis = Diagnosis(TrainConfig(out_dim=1024), plan, heard)
    uniform = {"target_spread": 0.0, "entropy_share": 0.98, "loss": 6.87, "update_ratio": 0.001}
    moment = {**uniform, "target_spread": spread, "entropy_share": 0.7, "loss": 5.3}
    for step, entry in enumerate([uniform, uniform, uniform, moment, uniform, uniform, uniform]):
        diagnosis.see({**entry, "step": 10 * step, "data_wait": 0.0}, seconds=1.0)
    assert [remark.partition(":")[0] for remark in heard.remarks] == ["uniform collapse"] * said


# Effective ranks of whole runs, a line each 50 steps of 9,469 photos in batches of 64, a line each
# 100 of 12,000 drawings in batches of 32: k-NN rose all the while.
