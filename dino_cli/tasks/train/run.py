"""`dino train`: images in, a run folder out. What is set up before the first step."""

import io
import os
from collections.abc import Iterator
from contextlib import ExitStack, nullcontext
from pathlib import Path
from typing import Any

import torch

from dino_cli.config.train import TrainConfig
from dino_cli.config.values import counted
from dino_cli.core.network.architecture import Architecture, VitArchitecture
from dino_cli.core.training.step import Networks
from dino_cli.data.decoding.pixel_limit import within_pixel_limit
from dino_cli.data.listing.image_list import ImageFile, ImageList
from dino_cli.data.listing.images import find_images
from dino_cli.data.views.batches import BatchPlan, ViewBatch, crop_batches
from dino_cli.data.views.pack import PhotoBatch
from dino_cli.errors import TaskError
from dino_cli.progress import Reporter
from dino_cli.runtime import (
    SMALL_NETWORK,
    Ranks,
    choose_precision,
    cores_per_process,
    one_thread,
    rank_device,
    ranks_from_environment,
)
from dino_cli.store.runs.checkpoints import CheckpointWriter, stand_in
from dino_cli.store.runs.folder import RunFolder, resume_command
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
from dino_cli.tasks.train.resume import own_paths, resume_point, tell_batches
from dino_cli.tasks.train.setup import (
    architecture_of,
    build_networks,
    plan_of,
    schedules_of,
    view_schedule_of,
)
from dino_cli.tasks.train.watch import Watch

__all__ = ["train"]


@within_pixel_limit
def train(config: TrainConfig, reporter: Reporter) -> dict[str, Any]:
    """Train, or go on with `config.resume`; see `store.runs` for the run folder that is left.

    In this process, and those that torchrun started beside it. Returns {"run", "steps", "of",
    "epochs", "images", "unreadable", "loss", "seconds", "images_per_second"}; `of`: how many steps
    there are without `max_steps`; `loss`: of the last step, None where it was not finite or there
    was none. Raises `Interrupted` after Ctrl-C or SIGTERM, once a checkpoint is written.
    """
    check(config)
    architecture = architecture_of(config)
    check_views(architecture, config)
    device = rank_device(config.device)
    first = os.environ.get("RANK", "0") == "0"
    go_on = f"go on with: {resume_command(config.resume or config.output or 'RUN')}"
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
        with own_paths(config, "data"):
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
        config, checkpoint = resume_point(config, folder, ranks, reporter)
        check(config)  # a batch that more processes share is smaller
    plan = plan_of(config, len(files), rank=ranks.rank, ranks=ranks.count)
    _check_enough(plan)
    check_readable(files, config)
    schedules = schedules_of(config, plan, reporter)
    resumed = checkpoint is not None
    networks = build_networks(config, architecture, device, reporter, resumed=resumed)
    if checkpoint is not None:
        tell_batches(config, folder, plan, networks, reporter)
    precision = choose_precision(config.precision, device)
    scaler = torch.amp.GradScaler(device.type) if precision == "fp16" else None
    exact = torch.float32 if device.type == "mps" else torch.float64
    epoch_loss = torch.zeros(2, device=device, dtype=exact)  # sum and count
    start = 0
    if checkpoint is not None:
        start = restore_run(checkpoint, networks, scaler, plan, epoch_loss, digest=digest)
    labelled: list[ImageFile] = []

    def prepare() -> None:
        with own_paths(config, "eval_data"):
            labelled.extend(labelled_images(config))
        if checkpoint is not None:
            stand_in(folder, checkpoint)
        described = about(config, architecture)
        (update_run if config.resume else create_run)(folder, config, described, plan, listed)
        for leftover in folder.path.glob(".*.part"):  # of a process killed while writing
            leftover.unlink(missing_ok=True)

    ranks.first(prepare)
    end = min(plan.steps, config.max_steps or plan.steps)
    if start >= end:
        more = "--max-steps may raise that" if end < plan.steps else "it is complete"
        reporter.remark(f"the run is at step {start} of {end} already; {more}")
    batches = _batches(config, files, plan, start, end, device)
    rates = [layer.rate for layer in networks.student.drop_paths]
    feed = Feed(config, plan, batches, rates, device, folder.path, reporter, ranks)
    watched = ranks.rank == 0 and isinstance(architecture, VitArchitecture)
    with (
        CheckpointWriter(folder, keep=config.keep) as writer,
        one_thread() if _is_small(networks, device) else nullcontext(),
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
            watch=Watch(config, files, folder) if watched else None,
        )
        return run.steps(feed, start, end)


def _check_enough(plan: BatchPlan) -> None:
    if plan.steps_per_epoch == 0:
        raise TaskError(
            f"{counted(plan.images, 'image')} {'is' if plan.images == 1 else 'are'} fewer than one "
            f"total batch of {plan.total_batch} ({plan.batch} × {counted(plan.ranks, 'process')} × "
            f"{plan.accumulate} accumulated)",
            "lower --batch-size or give more images",
        )


def _batches(
    config: TrainConfig,
    files: ImageList,
    plan: BatchPlan,
    start: int,
    end: int,
    device: torch.device,
) -> Iterator[ViewBatch | PhotoBatch]:
    """The crops of the steps from start to end, made by other processes; on CUDA the photos that
    the device makes them of."""
    on_cuda = device.type == "cuda"
    return crop_batches(
        files,
        view_schedule_of(config),
        plan,
        start_step=start,
        end_step=end,
        workers=min(config.workers, cores_per_process()),
        exif=config.exif,
        pin=on_cuda,
        photos=config.views == "gpu" or (config.views == "auto" and on_cuda),
        channels=config.in_chans,
    )


def _is_small(networks: Networks, device: torch.device) -> bool:
    weights = sum(p.numel() for p in networks.student.backbone.parameters())
    return device.type == "cpu" and weights < SMALL_NETWORK


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
