"""A run that goes on: from which checkpoint, and what makes it another run than the one begun."""

import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Literal

from torch.nn.modules.batchnorm import _BatchNorm

from dino_cli.config.resolve import RESCUING, read_run
from dino_cli.config.setting import flag_of, to_json
from dino_cli.config.train import TrainConfig
from dino_cli.config.values import counted
from dino_cli.core.training.step import Networks
from dino_cli.data.views.batches import BatchPlan
from dino_cli.errors import TaskError
from dino_cli.progress import Reporter
from dino_cli.runtime import Ranks
from dino_cli.store.runs.checkpoints import find_checkpoint, load_checkpoint
from dino_cli.store.runs.folder import RunFolder

__all__ = ["own_paths", "resume_point", "tell_batches"]

PATHS = {"data": "DATA", "eval_data": "--eval-data DIR"}  # as they are typed


@contextmanager
def own_paths(config: TrainConfig, name: Literal["data", "eval_data"]) -> Iterator[None]:
    """Inside is read what the run itself names, if nothing else was given: raises `TaskError` that
    tells of the run where that is not there, as for a relative path from another folder."""
    try:
        yield
    except TaskError as error:
        run = config.resume
        if run is None or read_run(run)["train"].get(name) != to_json(config)[name]:
            raise
        what = PATHS[name].split()[0]
        raise TaskError(
            f"the run {str(run)!r} cannot find its {what} from here: {error.what}",
            f"give {what} again: dino train {PATHS[name]} {shlex.join(['--resume', str(run)])}",
        ) from None


def resume_point(
    config: TrainConfig, folder: RunFolder, ranks: Ranks, reporter: Reporter
) -> tuple[TrainConfig, Path | None]:
    """The newest whole checkpoint, None before there is one; and the config with the total batch
    that the run has had. Says what else has changed. A collective.

    Raises `TaskError` when all checkpoints are damaged, or that batch does not divide.
    """
    checkpoint = ranks.first(lambda: find_checkpoint(folder, reporter.remark))
    if checkpoint is None:
        reporter.remark(f"{folder.path} has no checkpoint yet; starting at step 0")
        return config, None
    config = _same_total_batch(config, checkpoint, ranks, reporter)
    _tell_changes(config, folder, reporter)
    return config, checkpoint


def _tell_changes(config: TrainConfig, folder: RunFolder, reporter: Reporter) -> None:
    """Say what makes this another run than the one that was started, to save it."""
    before, now = read_run(folder.path)["train"], to_json(config)
    for name in sorted(RESCUING):
        if before.get(name) != now[name]:
            reporter.remark(f"from here on with {flag_of(name)} {now[name]}, not {before[name]}")


def tell_batches(
    config: TrainConfig, folder: RunFolder, plan: BatchPlan, networks: Networks, reporter: Reporter
) -> None:
    """Say that batch norm, which sees a micro-batch of all processes, now sees other ones, and the
    same of KoLeo, which sees that of one process."""
    options = read_run(folder.path)["train"]
    batch = options.get("batch_size", config.batch_size)
    if config.koleo_weight and batch != config.batch_size:
        reporter.remark(
            f"--koleo-weight compares {config.batch_size} images with each other from here on, not "
            f"{batch} (--batch-size), so the run is not quite what it would have been"
        )
    before = options.get("accumulate", config.accumulate)
    norms = any(isinstance(layer, _BatchNorm) for layer in networks.student.modules())
    if norms and before != config.accumulate:
        reporter.remark(
            f"batch norm takes {plan.total_batch // config.accumulate} images at a time from here "
            f"on, not {plan.total_batch // before} (--accumulate {config.accumulate}, not "
            f"{before}), so the run is not quite what it would have been"
        )


def _same_total_batch(
    config: TrainConfig, checkpoint: Path, ranks: Ranks, reporter: Reporter
) -> TrainConfig:
    """The run's total batch on as many processes as there are now: more or fewer than before.

    Fewer processes accumulate, so that what fitted into the memory of one still fits.
    """
    total = load_checkpoint(checkpoint, mmap=True).get("total_batch")
    now = config.batch_size * ranks.count * config.accumulate
    if not isinstance(total, int) or now == total:
        return config
    if total % (config.batch_size * ranks.count) == 0:
        fitted = replace(config, accumulate=total // (config.batch_size * ranks.count))
    elif total % ranks.count == 0 and total < now:
        fitted = replace(config, batch_size=total // ranks.count, accumulate=1)
    else:
        raise TaskError(
            f"the run's total batch of {total} does not divide into batches of "
            f"{config.batch_size} on {counted(ranks.count, 'process')}",
            f"use a number of processes that divides {total}, or a --batch-size that fits",
        )
    reporter.remark(
        f"the total batch stays {total}: {counted(fitted.batch_size, 'image')} × "
        f"{counted(ranks.count, 'process')} × {fitted.accumulate} accumulated"
    )
    return fitted
