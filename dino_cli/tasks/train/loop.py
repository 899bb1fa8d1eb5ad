"""The loop of a run: steps, and what is told and kept between them."""

import time
from contextlib import AbstractContextManager, closing, nullcontext, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from dino_cli.config.train import TrainConfig
from dino_cli.config.values import counted
from dino_cli.core.network.architecture import Architecture
from dino_cli.core.training.cuda_graph import GraphedPasses, RecordingError
from dino_cli.core.training.step import (
    Networks,
    StepResult,
    Views,
    run_pass,
    start_centre,
    train_step,
)
from dino_cli.data.listing.image_list import ImageFile
from dino_cli.data.views.batches import BatchPlan
from dino_cli.errors import Interrupted, TaskError
from dino_cli.progress import Reporter
from dino_cli.runtime import (
    Precision,
    Ranks,
    StopOverdue,
    autocast,
    distribute,
    stop_requests,
)
from dino_cli.store.runs.checkpoints import CheckpointWriter
from dino_cli.store.runs.curves import draw_loss
from dino_cli.store.runs.events import Events
from dino_cli.store.runs.folder import RunFolder, resume_command
from dino_cli.store.runs.log import Log
from dino_cli.tasks.train.diagnosis import Diagnosis
from dino_cli.tasks.train.entry import finite, log_entry
from dino_cli.tasks.train.feed import Feed
from dino_cli.tasks.train.folder import about, save_run
from dino_cli.tasks.train.knn import teacher_knn
from dino_cli.tasks.train.pace import Pace, Stretch
from dino_cli.tasks.train.setup import Schedules
from dino_cli.tasks.train.skips import Skips
from dino_cli.tasks.train.watch import Watch

__all__ = ["Run"]

SECONDS_BETWEEN_DRAWINGS = 30.0  # of loss.png, which takes a third of a second


@dataclass(kw_only=True)
class Run:
    """One training run while it goes. `labelled` and `watch` are rank 0's."""

    config: TrainConfig
    architecture: Architecture
    networks: Networks
    plan: BatchPlan
    schedules: Schedules
    folder: RunFolder
    writer: CheckpointWriter
    digest: str
    device: torch.device
    precision: Precision
    scaler: torch.amp.GradScaler | None
    ranks: Ranks
    reporter: Reporter
    epoch_loss: Tensor  # sum and count
    labelled: list[ImageFile]
    watch: Watch | None
    drawn: float = field(default_factory=time.monotonic, init=False)
    best: float = field(default=float("-inf"), init=False)  # k-NN so far

    def __post_init__(self) -> None:
        config, device = self.config, self.device
        self.autocast = partial(autocast, device, self.precision)
        self.skips = Skips(config, self.writer, self.precision, device, self.reporter)
        self.diagnosis = Diagnosis(config, self.plan, self.reporter)
        self.events = Events(self.folder.path if self.ranks.rank == 0 else None)
        if config.compile:
            self.networks.student.compile()
            self.networks.teacher.compile()
        graphed = (
            config.cuda_graph
            and device.type == "cuda"
            and self.ranks.count == config.accumulate == 1
            and not (self.scaler or config.checkpoint_activations)
        )
        self.passes = GraphedPasses(config.clip_grad) if graphed else run_pass
        self.wrapped: nn.parallel.DistributedDataParallel | None = None
        if self.ranks.count > 1:
            self.networks.teacher = self.ranks.synchronize_batch_norm(self.networks.teacher, device)
            self.networks.student = self.ranks.synchronize_batch_norm(self.networks.student, device)
            self.wrapped = distribute(self.networks.student, compress=config.compress_gradients)

    def steps(self, feed: Feed, start: int, end: int) -> dict[str, Any]:
        """Run the steps from start to end; every line here happens in this order."""
        config, plan = self.config, self.plan
        started, last = time.monotonic(), None
        self.reporter.stage("training", end * plan.total_batch, done=start * plan.total_batch)
        pace = Pace(start)
        with stop_requests() as asked, self._open_log(start) as log, closing(self.events):
            if log and start:
                self._recall()
            if self.watch and start == 0:
                self.watch.look(self.networks.teacher.backbone, self.device, self.autocast, epoch=0)
            for step in range(start, end):
                done = step + 1
                logged = step % config.log_every == 0 or done == end

                # Ten views of each image, read and cropped by other processes.
                try:
                    with pace.waiting():
                        micro_batches = feed.read()
                except StopOverdue:
                    if step > start:
                        self._save(step, best=False)
                    self._stop(step, together=False)
                views = feed.views(micro_batches, step)
                if step == 0 and config.center_init == "batch":
                    start_centre(
                        self.networks, views, autocast=self.autocast, average=self.ranks.average
                    )

                # The paper's algorithm, once.
                result = self._step(views, step, measure=logged)
                self._count(result)
                self.reporter.advance(plan.total_batch)

                # Reading a figure waits for the device, so this is done now and then.
                if logged:
                    last = finite(result.loss)
                    stretch = pace.lap(done)
                    with pace.aside(result.loss):
                        self._tell(step, result, stretch, log)

                end_of_epoch = done % plan.steps_per_epoch == 0
                best = False
                if end_of_epoch:
                    with pace.aside(result.loss):
                        best = self._end_epoch(done, log)
                stop = self._has_to_stop(bool(asked), step)
                due = config.save_every is not None and done % config.save_every == 0
                if end_of_epoch or due or stop or done == end:
                    with pace.aside(result.loss):
                        self._save(done, best=best)
                if stop and done < end:
                    self._stop(done)
            self.diagnosis.end()
            self.writer.flush()
        unreadable = feed.all_unreadable()
        if self.ranks.rank == 0:
            self._draw()
        self.reporter.finish()
        seconds = time.monotonic() - started
        return {
            "run": str(self.folder.path),
            "steps": max(start, end),
            "of": plan.steps,
            "epochs": max(start, end) // plan.steps_per_epoch,
            "images": plan.images,
            "unreadable": len(unreadable),
            "loss": last,
            "seconds": round(seconds, 1),
            "images_per_second": round(max(0, end - start) * plan.total_batch / seconds, 1),
        }

    def _step(self, views: list[Views], step: int, *, measure: bool) -> StepResult:
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
                passes=self.passes,
                measure=measure,
            )
        except torch.OutOfMemoryError:
            raise TaskError(
                f"a batch of {counted(self.config.batch_size, 'image')} does not fit into the "
                f"memory of {self.device}",
                "halve --batch-size and double --accumulate, or use --checkpoint-activations",
            ) from None
        except RecordingError as error:
            raise TaskError(
                f"a step of {self.config.arch} cannot be recorded and replayed ({error})",
                f"go on with: {resume_command(self.folder.path)} --no-cuda-graph",
            ) from None

    def _has_to_stop(self, asked: bool, step: int) -> bool:
        """Whether any rank was asked to; ranks ask each other only now and then."""
        if self.ranks.count > 1 and step % min(self.config.log_every, 10):
            return False
        return self.ranks.any(asked, self.device)

    def _stop(self, done: int, *, together: bool = True) -> NoReturn:
        self.writer.flush()
        if self.ranks.rank == 0:
            self._draw()
        if together:
            # Whoever started us ends the first process too once another has left.
            self.ranks.barrier()
        raise Interrupted(
            f"stopped after step {done} of {self.plan.steps}; "
            f"go on with: {resume_command(self.folder.path)}"
        )

    # What is told

    def _count(self, result: StepResult) -> None:
        """Add to the epoch's loss, on the device, unless the step changed nothing."""
        good = 1 - result.skipped
        loss = torch.where(good > 0, result.loss, 0.0)
        self.epoch_loss += torch.stack([loss, good])
        self.skips.count(result)

    def _open_log(self, start: int) -> AbstractContextManager[Log | None]:
        if self.ranks.rank != 0:
            return nullcontext()
        per_epoch = self.plan.steps_per_epoch
        return closing(Log(self.folder.log, resume_step=start, steps_per_epoch=per_epoch))

    def _recall(self) -> None:
        """What the log says of the steps that another process took."""
        before = Log.read(self.folder.log)
        self.diagnosis.recall(before)
        self.best = max((e.get("knn_top1") or self.best for e in before), default=self.best)

    def _tell(self, step: int, result: StepResult, stretch: Stretch, log: Log | None) -> None:
        """One line of the log, the live figures, and what they mean."""
        entry = log_entry(
            step,
            step // self.plan.steps_per_epoch,
            result,
            self.schedules.at(step),
            out_dim=self.config.out_dim,
            rate=stretch.steps * self.plan.total_batch / stretch.seconds,
            wait=stretch.waited / stretch.seconds,
            device=self.device,
        )
        self.writer.check()
        if log:
            log.write(entry)
            self.events.write(entry)
        shown = {
            "loss": entry["loss"],
            "entropy": entry["teacher_entropy"],
            "spread": entry["target_spread"],
        }
        known = {name: value for name, value in shown.items() if value is not None}
        self.reporter.metric({**known, "wait": f"{100 * entry['data_wait']:.0f}%"})
        self.diagnosis.see(entry, stretch.seconds)
        self.skips.tell(step)
        if self.scaler:
            self.skips.tell_overflows(self.scaler.get_scale(), step)

    def _end_epoch(self, done: int, log: Log | None) -> bool:
        """Whether the teacher is the best so far, by k-NN."""
        total, count = self.epoch_loss.tolist()
        self.epoch_loss.zero_()
        if log is None:
            return False
        best = False
        epoch = done // self.plan.steps_per_epoch - 1
        entry = {"epoch": epoch, "epoch_loss": total / count if count else None}
        due = (epoch + 1) % self.config.eval_every == 0 or done == self.plan.steps
        if self.labelled and due:
            with suppress(StopOverdue):  # pictures that do not come; the loop stops after this
                top1 = teacher_knn(
                    self.config, self.networks, self.labelled, self.device, self.precision
                )
                entry["knn_top1"] = top1
                best = top1 is not None and top1 > self.best
                self.best = max(self.best, top1 or self.best)
                shown = "no two readable images" if top1 is None else f"{top1:.1f} %"
                self.reporter.remark(f"epoch {epoch + 1}: k-NN {shown}")
        if self.watch:
            self.watch.look(
                self.networks.teacher.backbone, self.device, self.autocast, epoch=epoch + 1
            )
        log.write(entry)
        if time.monotonic() - self.drawn > SECONDS_BETWEEN_DRAWINGS:
            self._draw()
        return best

    def _draw(self) -> None:
        try:
            draw_loss(Log.read(self.folder.log), self.folder.path / "loss.png")
        except OSError as error:  # a picture is not worth the run
            self.reporter.remark(f"cannot draw loss.png ({error.strerror or error})")
        self.drawn = time.monotonic()

    # What is kept

    def _save(self, done: int, *, best: bool) -> None:
        if self.ranks.rank == 0:
            save_run(
                self.writer,
                self.networks,
                self.scaler,
                self.plan,
                done,
                self.epoch_loss,
                about(self.config, self.architecture),
                digest=self.digest,
                keep_every=self.config.keep_every,
                best=best,
            )
