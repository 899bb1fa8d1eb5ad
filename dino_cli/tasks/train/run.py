"""`dino train`: images in, a run folder out."""

import time
from contextlib import AbstractContextManager, closing, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from dino_cli.config.train import TrainConfig
from dino_cli.core.backbone import Architecture
from dino_cli.core.step import Networks, StepResult, Views, train_step
from dino_cli.data.crops import Plan, crop_batches
from dino_cli.data.images import ImageFile, find_images
from dino_cli.errors import Interrupted, TaskError
from dino_cli.progress import Reporter
from dino_cli.runtime import (
    Ranks,
    autocast,
    available_cores,
    choose_precision,
    one_thread,
    rank_device,
    ranks_from_environment,
    stop_requests,
)
from dino_cli.store.checkpoint import Log, RunFolder
from dino_cli.store.curves import draw_loss
from dino_cli.store.events import Events
from dino_cli.tasks.train.check import check, check_views
from dino_cli.tasks.train.entry import log_entry
from dino_cli.tasks.train.feed import Feed, check_readable
from dino_cli.tasks.train.folder import about, create_run, restore_run, save_run, update_run
from dino_cli.tasks.train.knn import labelled_images, teacher_knn
from dino_cli.tasks.train.setup import (
    Schedules,
    architecture_of,
    build_networks,
    schedules_of,
    view_schedule_of,
)

__all__ = ["train"]

SMALL_NETWORK = 3_000_000  # parameters; below, a second thread on a CPU costs more than it gives
SECONDS_BETWEEN_DRAWINGS = 30.0  # of loss.png, which takes a third of a second


def train(config: TrainConfig, reporter: Reporter) -> dict[str, Any]:
    """Train, or go on with `config.resume`; see SPEC for the run folder that is left.

    Returns {"run", "steps", "epochs", "images", "loss", "seconds", "images_per_second"}. Raises
    `Interrupted` after Ctrl-C or SIGTERM, once a checkpoint is written.
    """
    check(config)
    architecture = architecture_of(config)
    check_views(architecture, config)
    device = rank_device(config.device)
    files = find_images(config.data)
    with ranks_from_environment(device) as ranks:
        return _train_on(config, architecture, files, device, ranks, reporter)


def _train_on(
    config: TrainConfig,
    architecture: Architecture,
    files: list[ImageFile],
    device: torch.device,
    ranks: Ranks,
    reporter: Reporter,
) -> dict[str, Any]:
    reporter = reporter if ranks.rank == 0 else Reporter()
    plan = Plan(
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
    folder = RunFolder(
        config.resume or config.output or Path("runs") / time.strftime("%Y%m%d-%H%M%S")
    )
    resumed = config.resume is not None and folder.checkpoint.is_file()
    networks = build_networks(config, architecture, device, reporter, resumed=resumed)
    run = _Run(config, architecture, networks, plan, schedules, folder, device, ranks, reporter)
    start = run.restore() if config.resume else 0
    if ranks.rank == 0 and not config.resume:
        run.create_folder()
    ranks.barrier()
    end = min(plan.steps, config.max_steps or plan.steps)
    if start >= end:
        reporter.remark(f"the run is at step {start} of {end} already; --max-steps may raise that")
    batches = crop_batches(
        files,
        view_schedule_of(config),
        plan,
        start_step=start,
        end_step=end,
        workers=min(config.workers, available_cores()),
        exif=config.exif,
        pin=device.type == "cuda",
    )
    rates = [layer.rate for layer in networks.student.drop_paths]
    feed = Feed(config, plan, batches, rates, device, folder.path, reporter)
    weights = sum(p.numel() for p in networks.student.backbone.parameters())
    small = device.type == "cpu" and weights < SMALL_NETWORK
    with one_thread() if small else nullcontext():
        return run.steps(feed, start, end)


def _has_batch_norm(network: nn.Module) -> bool:
    kinds = (nn.BatchNorm1d, nn.BatchNorm2d)
    return any(isinstance(module, kinds) for module in network.modules())


class _Run:
    """One training run while it goes: the loop, its log and its checkpoints."""

    def __init__(
        self,
        config: TrainConfig,
        architecture: Architecture,
        networks: Networks,
        plan: Plan,
        schedules: Schedules,
        folder: RunFolder,
        device: torch.device,
        ranks: Ranks,
        reporter: Reporter,
    ) -> None:
        self.config, self.architecture, self.networks = config, architecture, networks
        self.plan, self.schedules, self.folder = plan, schedules, folder
        self.device, self.ranks, self.reporter = device, ranks, reporter
        self.precision = choose_precision(config.precision, device)
        self.autocast = partial(autocast, device, self.precision)
        self.scaler = torch.amp.GradScaler(device.type) if self.precision == "fp16" else None
        exact = torch.float32 if device.type == "mps" else torch.float64
        self.epoch_loss = torch.zeros(2, device=device, dtype=exact)  # sum and count
        self.skipped = torch.zeros((), device=device)  # steps since the last log line
        self.labelled: list[ImageFile] = labelled_images(config) if ranks.rank == 0 else []
        self.drawn = float("-inf")
        self.events = Events(folder.path if ranks.rank == 0 else None)
        if config.compile:
            networks.student.compile()
            networks.teacher.compile()
        self.wrapped: nn.parallel.DistributedDataParallel | None = None
        if ranks.count > 1:
            if device.type == "cuda":
                convert = nn.SyncBatchNorm.convert_sync_batchnorm
                networks.student = convert(networks.student)  # type: ignore[no-untyped-call]
                networks.teacher = convert(networks.teacher)  # type: ignore[no-untyped-call]
            elif _has_batch_norm(networks.student):
                reporter.remark("on CPUs, batch norm sees each process's own images only")
            self.wrapped = nn.parallel.DistributedDataParallel(
                networks.student, broadcast_buffers=False, gradient_as_bucket_view=True
            )

    # The loop

    def steps(self, feed: Feed, start: int, end: int) -> dict[str, Any]:
        """Run the steps from start to end; every line here happens in this order."""
        config, plan, folder = self.config, self.plan, self.folder
        started = time.monotonic()
        last = float("nan")
        batch = plan.total_batch
        self.reporter.stage("training", end * batch, done=start * batch)
        window, waited, since = time.monotonic(), 0.0, start
        with stop_requests() as asked, self._open_log(start) as log, closing(self.events):
            for step in range(start, end):
                asking = time.monotonic()
                micro_batches = feed.read()
                waited += time.monotonic() - asking
                views = feed.views(micro_batches, step)
                if step == 0 and config.center_init == "batch":
                    self._start_centre(views[0])

                result = self._step(views, step)
                good = 1 - result.skipped
                loss = torch.where(good > 0, result.loss, 0.0)
                self.epoch_loss += torch.stack([loss, good])
                self.skipped += result.skipped
                done = step + 1
                self.reporter.advance(plan.total_batch)

                if step % config.log_every == 0 or done == end:  # reading waits for the device
                    last = result.loss.item()
                    seconds = time.monotonic() - window
                    rate = (done - since) * plan.total_batch / seconds
                    at = self.schedules.at(step)
                    epoch = step // plan.steps_per_epoch
                    entry = log_entry(step, epoch, result, at, rate, waited / seconds)
                    if log:
                        log.write(entry)
                        self.events.write(entry)
                    self._show(result, waited / seconds)
                    self._tell_skipped(step)
                    window, waited, since = time.monotonic(), 0.0, done
                end_of_epoch = done % plan.steps_per_epoch == 0
                if end_of_epoch:
                    self._end_epoch(done, log)
                stop = step % min(config.log_every, 10) == 0 or self.ranks.count == 1
                stop = stop and self.ranks.any(bool(asked), self.device)
                due = config.save_every is not None and done % config.save_every == 0
                if end_of_epoch or due or stop or done == end:
                    self.save(done)
                if stop and done < end:
                    raise Interrupted(
                        f"stopped after step {done} of {plan.steps}; "
                        f"go on with: dino train --resume {folder.path}"
                    )
        if self.ranks.rank == 0:
            self._draw()
        self.reporter.finish()
        seconds = time.monotonic() - started
        return {
            "run": str(folder.path),
            "steps": max(start, end),
            "epochs": max(start, end) // plan.steps_per_epoch,
            "images": plan.images,
            "loss": last if end > start else None,
            "seconds": round(seconds, 1),
            "images_per_second": round(max(0, end - start) * plan.total_batch / seconds, 1),
        }

    def _step(self, views: list[Views], step: int) -> StepResult:
        try:
            return train_step(
                self.networks,
                views,
                self.schedules.at(step),
                clip_grad=self.config.clip_grad,
                forward=self.wrapped,
                autocast=self.autocast,
                no_sync=self.wrapped.no_sync if self.wrapped else nullcontext,
                average=self.ranks.average,
                scaler=self.scaler,
            )
        except torch.OutOfMemoryError:
            raise TaskError(
                f"a batch of {self.config.batch_size} images does not fit into the memory of "
                f"{self.device}",
                "halve --batch-size and double --accumulate, or use --checkpoint-activations",
            ) from None

    @torch.no_grad()
    def _start_centre(self, views: Views) -> None:
        with self.autocast():
            logits = self.networks.teacher(views.groups[:1])
        mean = self.ranks.average(logits.float().mean(dim=0, keepdim=True))
        self.networks.centre.copy_(mean)

    # What is told

    def _open_log(self, start: int) -> AbstractContextManager[Log | None]:
        if self.ranks.rank != 0:
            return nullcontext()
        per_epoch = self.plan.steps_per_epoch
        return closing(Log(self.folder.log, resume_step=start, steps_per_epoch=per_epoch))

    def _show(self, result: StepResult, wait: float) -> None:
        self.reporter.metric(
            {
                "loss": result.loss.item(),
                "entropy": result.entropy.item(),
                "spread": result.spread.item(),
                "wait": f"{100 * wait:.0f}%",
            }
        )

    def _tell_skipped(self, step: int) -> None:
        count = int(self.skipped.item())
        self.skipped.zero_()
        if count:
            self.reporter.remark(
                f"up to step {step}, {count} steps with a loss or gradient that was not finite "
                "were skipped; if this repeats, lower --lr, or use --precision fp32 or a smaller "
                "--clip-grad"
            )

    def _end_epoch(self, done: int, log: Log | None) -> None:
        total, count = self.epoch_loss.tolist()
        self.epoch_loss.zero_()
        if log:
            epoch = done // self.plan.steps_per_epoch - 1
            entry = {"epoch": epoch, "epoch_loss": total / count if count else None}
            due = (epoch + 1) % self.config.eval_every == 0 or done == self.plan.steps
            if self.labelled and due:
                top1 = teacher_knn(
                    self.config, self.networks, self.labelled, self.device, self.precision
                )
                entry["knn_top1"] = top1
                shown = "no two readable images" if top1 is None else f"{top1:.1f} %"
                self.reporter.remark(f"epoch {epoch + 1}: k-NN {shown}")
            log.write(entry)
            if time.monotonic() - self.drawn > SECONDS_BETWEEN_DRAWINGS:
                self._draw()

    def _draw(self) -> None:
        try:
            draw_loss(Log.read(self.folder.log), self.folder.path / "loss.png")
        except OSError as error:  # a picture is not worth the run
            self.reporter.remark(f"cannot draw loss.png ({error.strerror or error})")
        self.drawn = time.monotonic()

    # What is kept

    def create_folder(self) -> None:
        create_run(self.folder, self.config, about(self.config, self.architecture))

    def restore(self) -> int:
        """The step to go on with: 0 for a run that ended before its first checkpoint."""
        if not self.folder.checkpoint.is_file():
            self.reporter.remark(f"{self.folder.path} has no checkpoint yet; starting at step 0")
            return 0
        args = (self.folder, self.networks, self.scaler, self.plan, self.epoch_loss)
        step = restore_run(*args)
        if self.ranks.rank == 0:
            update_run(self.folder, self.config, about(self.config, self.architecture))
        return step

    def save(self, done: int) -> None:
        if self.ranks.rank == 0:
            save_run(
                self.folder,
                self.networks,
                self.scaler,
                self.plan,
                done,
                self.epoch_loss,
                about(self.config, self.architecture),
                keep_every=self.config.keep_every,
            )
