"""`dino train`: images in, a run folder out. What is set up before the first step."""

import io
import os
from contextlib import ExitStack, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch.nn.modules.batchnorm import _BatchNorm

from dino_cli.config.resolve import RESCUING
from dino_cli.config.setting import flag_of, to_json
from dino_cli.config.train import TrainConfig
from dino_cli.core.network.architecture import Architecture, VitArchitecture
from dino_cli.core.training.step import Networks
from dino_cli.data.decoding.pixel_limit import within_pixel_limit
from dino_cli.data.listing.images import ImageFile, ImageList, find_images
from dino_cli.data.views.batches import BatchPlan, crop_batches
from dino_cli.errors import TaskError
from dino_cli.progress import Reporter
from dino_cli.runtime import (
    Ranks,
    choose_precision,
    cores_per_process,
    one_thread,
    rank_device,
    ranks_from_environment,
)
from dino_cli.store.runs.checkpoints import CheckpointWriter, find_checkpoint, load_checkpoint
from dino_cli.store.runs.folder import RunFolder
from dino_cli.store.writing.locks import lock_output
from dino_cli.tasks.train.check import check, check_views
from dino_cli.tasks.train.feed import Feed, check_readable
from dino_cli.tasks.train.folder import (
    about,
    create_run,
    digest_of,
    list_on_stdin,
    restore_run,
    update_run,
)
from dino_cli.tasks.train.knn import labelled_images
from dino_cli.tasks.train.loop import Run
from dino_cli.tasks.train.processes import default_run
from dino_cli.tasks.train.setup import (
    architecture_of,
    build_networks,
    schedules_of,
    view_schedule_of,
)
from dino_cli.tasks.train.watch import Watch

__all__ = ["train"]

SMALL_NETWORK = 3_000_000  # parameters; below, a second thread on a CPU costs more than it gives


@within_pixel_limit
def train(config: TrainConfig, reporter: Reporter) -> dict[str, Any]:
    """Train, or go on with `config.resume`; see `store.runs` for the run folder that is left.

    In this process, and those that torchrun started beside it. Returns {"run", "steps", "epochs",
    "images", "unreadable", "loss", "seconds", "images_per_second"}. Raises `Interrupted` after
    Ctrl-C or SIGTERM, once a checkpoint is written.
    """
    check(config)
    architecture = architecture_of(config)
    check_views(architecture, config)
    device = rank_device(config.device)
    first = os.environ.get("RANK", "0") == "0"
    go_on = f"go on with: dino train --resume {config.resume or config.output or 'RUN'}"
    with (
        ranks_from_environment(device, minutes=config.timeout) as ranks,
        ranks.peers_watched(go_on),
        ExitStack() as stack,
    ):
        folder = RunFolder(ranks.share(config.resume or config.output or default_run()))
        ranks.first(lambda: stack.enter_context(lock_output(folder.path)))
        told = reporter if first else None
        # One stdin cannot be read by several processes, nor again when the run goes on.
        listed = ranks.first(lambda: list_on_stdin(config, told)) if "-" in config.data else None
        stdin = io.TextIOWrapper(io.BytesIO(listed or b""), encoding="utf-8")
        files = find_images(config.data, stdin=stdin, reporter=told, null=config.null)
        return _train_on(folder, config, architecture, files, device, ranks, reporter, listed)


def _train_on(
    folder: RunFolder,
    config: TrainConfig,
    architecture: Architecture,
    files: ImageList,
    device: torch.device,
    ranks: Ranks,
    reporter: Reporter,
    listed: bytes | None,
) -> dict[str, Any]:
    reporter = reporter if ranks.rank == 0 else Reporter()
    digest = digest_of(files)
    _same_images(len(files), digest, ranks)
    checkpoint: Path | None = None
    if config.resume:
        checkpoint = ranks.first(lambda: find_checkpoint(folder, reporter.remark))
        if checkpoint is None:
            reporter.remark(f"{folder.path} has no checkpoint yet; starting at step 0")
        else:
            config = _same_total_batch(config, checkpoint, ranks, reporter)
            _tell_changes(config, folder, reporter)
    plan = BatchPlan(
        images=len(files),
        epochs=config.epochs,
        batch=config.batch_size,
        seed=config.seed,
        accumulate=config.accumulate,
        rank=ranks.rank,
        ranks=ranks.count,
    )
    if plan.steps_per_epoch == 0:
        raise TaskError(
            f"{len(files)} images are fewer than one total batch of {plan.total_batch} "
            f"({config.batch_size} × {ranks.count} processes × {config.accumulate} accumulated)",
            "lower --batch-size or give more images",
        )
    check_readable(files, config)
    schedules = schedules_of(config, plan, reporter)
    resumed = checkpoint is not None
    networks = build_networks(config, architecture, device, reporter, resumed=resumed)
    if checkpoint is not None:
        _tell_batch_norm(config, folder, plan, networks, reporter)
    precision = choose_precision(config.precision, device)
    scaler = torch.amp.GradScaler(device.type) if precision == "fp16" else None
    exact = torch.float32 if device.type == "mps" else torch.float64
    epoch_loss = torch.zeros(2, device=device, dtype=exact)  # sum and count
    start = 0
    if checkpoint is not None:
        start = restore_run(checkpoint, networks, scaler, plan, epoch_loss, digest=digest)
    alone = ranks.rank == 0
    labelled: list[ImageFile] = []

    def prepare() -> None:
        labelled.extend(labelled_images(config))
        described = about(config, architecture)
        (update_run if config.resume else create_run)(folder, config, described, plan, listed)
        for leftover in folder.path.glob(".*.part"):  # of a process killed while writing
            leftover.unlink(missing_ok=True)

    ranks.first(prepare)
    end = min(plan.steps, config.max_steps or plan.steps)
    if start >= end:
        reporter.remark(f"the run is at step {start} of {end} already; --max-steps may raise that")

    batches = crop_batches(
        files,
        view_schedule_of(config),
        plan,
        start_step=start,
        end_step=end,
        workers=min(config.workers, cores_per_process()),
        exif=config.exif,
        pin=device.type == "cuda",
        photos=config.views == "gpu" or (config.views == "auto" and device.type == "cuda"),
        channels=config.in_chans,
    )
    rates = [layer.rate for layer in networks.student.drop_paths]
    feed = Feed(config, plan, batches, rates, device, folder.path, reporter, ranks)
    weights = sum(p.numel() for p in networks.student.backbone.parameters())
    small = device.type == "cpu" and weights < SMALL_NETWORK
    with (
        CheckpointWriter(folder, keep=config.keep) as writer,
        one_thread() if small else nullcontext(),
    ):
        run = Run(
            config=config,
            architecture=architecture,
            networks=networks,
            plan=plan,
            schedules=schedules,
            folder=folder,
            writer=writer,
            digest=digest,
            device=device,
            precision=precision,
            scaler=scaler,
            ranks=ranks,
            reporter=reporter,
            epoch_loss=epoch_loss,
            labelled=labelled,
            watch=Watch(config, files, folder)
            if alone and isinstance(architecture, VitArchitecture)
            else None,
        )
        return run.steps(feed, start, end)


def _same_images(count: int, digest: str, ranks: Ranks) -> None:
    """Raise `TaskError` where a process has other images than the first; a collective."""
    (first, names), *others = ranks.everyone((count, digest))
    for rank, (found, named) in enumerate(others, start=1):
        if (found, named) != (first, names):
            how = f"{found} images, process 0 {first}" if found != first else "other names"
            raise TaskError(
                f"the processes do not see the same data: process {rank} finds {how}",
                "give all machines the same files, at paths that DATA names on each",
            )


def _tell_changes(config: TrainConfig, folder: RunFolder, reporter: Reporter) -> None:
    """Say what makes this another run than the one that was started, to save it."""
    before, now = folder.read_config()["train"], to_json(config)
    for name in sorted(RESCUING):
        if before.get(name) != now[name]:
            reporter.remark(f"from here on with {flag_of(name)} {now[name]}, not {before[name]}")


def _tell_batch_norm(
    config: TrainConfig, folder: RunFolder, plan: BatchPlan, networks: Networks, reporter: Reporter
) -> None:
    """Say that batch norm, which sees a micro-batch of all processes, now sees other ones."""
    before = folder.read_config()["train"].get("accumulate", config.accumulate)
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
            f"{config.batch_size} on {ranks.count} processes",
            f"use a number of processes that divides {total}, or a --batch-size that fits",
        )
    reporter.remark(
        f"the total batch stays {total}: {fitted.batch_size} images × {ranks.count} processes × "
        f"{fitted.accumulate} accumulated"
    )
    return fitted
