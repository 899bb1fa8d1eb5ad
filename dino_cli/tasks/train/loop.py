"""The loop of a run: steps, and what is told and kept between them."""

import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from dino_cli.config.train import TrainConfig
from dino_cli.core.network.architecture import Architecture
from dino_cli.core.training.cuda_graph import GraphedPasses
from dino_cli.core.training.step import Networks, StepResult, Views, run_pass, train_step
from dino_cli.data.listing.images import ImageFile
from dino_cli.data.views.batches import BatchPlan
from dino_cli.errors import Interrupted, TaskError
from dino_cli.progress import Reporter
from dino_cli.runtime import Precision, Ranks, autocast, distribute, stop_requests
from dino_cli.store.runs.checkpoints import CheckpointWriter
from dino_cli.store.runs.curves import draw_loss
from dino_cli.store.runs.events import Events
from dino_cli.store.runs.folder import RunFolder
from dino_cli.store.runs.log import Log
from dino_cli.tasks.train.diagnosis import Diagnosis
from dino_cli.tasks.train.entry import log_entry
from dino_cli.tasks.train.feed import Feed
from dino_cli.tasks.train.folder import about, save_run
from dino_cli.tasks.train.knn import teacher_knn
from dino_cli.tasks.train.setup import Schedules
from dino_cli.tasks.train.watch import Watch

__all__ = ["Run"]

SECONDS_BETWEEN_DRAWINGS = 30.0  # of loss.png, which takes a third of a second
MOST_SKIPPED = 3  # steps in a row that are not finite
# Steps in a row whose fp16 gradients overflow. The scaler halves its scale at each, from 65,536: a
# dozen may be its search for the right one.
MOST_OVERFLOWED = 20


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
    drawn: float = field(default=float("-inf"), init=False)
    best: float = field(default=float("-inf"), init=False)  # k-NN so far
    aside: float = field(default=0.0, init=False)  # seconds since the last line

    def __post_init__(self) -> None:
        config, device = self.config, self.device
        self.autocast = partial(autocast, device, self.precision)
        # Steps that were not finite: since the last line, in a row now, most in a row.
        self.skipped = torch.zeros(3, device=device)
        self.overflowed = torch.zeros((), device=device)  # steps in a row now
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
            self.networks.teacher = self.ranks.synchronise_batch_norm(self.networks.teacher, device)
            self.networks.student = self.ranks.synchronise_batch_norm(self.networks.student, device)
            self.wrapped = distribute(self.networks.student, compress=config.compress_gradients)

    def steps(self, feed: Feed, start: int, end: int) -> dict[str, Any]:
        """Run the steps from start to end; every line here happens in this order."""
        config, plan, folder = self.config, self.plan, self.folder
        batch, per_epoch = plan.total_batch, plan.steps_per_epoch
        started = time.monotonic()
        last = float("nan")
        self.reporter.stage("training", end * batch, done=start * batch)
        window, waited, since = time.monotonic(), 0.0, start
        with stop_requests() as asked, self._open_log(start) as log, closing(self.events):
            if log and start:
                before = Log.read(self.folder.log)
                self.diagnosis.recall(before)
                self.best = max((e.get("knn_top1") or self.best for e in before), default=self.best)
            if self.watch and start == 0:
                self.watch.look(self.networks.teacher.backbone, self.device, self.autocast, epoch=0)
            for step in range(start, end):
                done = step + 1
                logged = step % config.log_every == 0 or done == end

                # Ten views of each image, read and cropped by other processes.
                asking = time.monotonic()
                micro_batches = feed.read()
                waited += time.monotonic() - asking
                views = feed.views(micro_batches, step)
                if step == 0 and config.center_init == "batch":
                    self._start_centre(views[0])

                # The paper's algorithm, once.
                result = self._step(views, step, measure=logged)
                self._count(result)
                self.reporter.advance(batch)

                # Reading a figure waits for the device, so this is done now and then.
                if logged:
                    last = result.loss.item()
                    seconds = time.monotonic() - window - self.aside
                    entry = log_entry(
                        step,
                        step // per_epoch,
                        result,
                        self.schedules.at(step),
                        out_dim=config.out_dim,
                        rate=(done - since) * batch / seconds,
                        wait=waited / seconds,
                        device=self.device,
                    )
                    self._tell(entry, seconds, log)
                    window, waited, since = time.monotonic(), 0.0, done
                    self.aside = 0.0

                end_of_epoch = done % per_epoch == 0
                best = False
                if end_of_epoch:
                    with self._aside(result):
                        best = self._end_epoch(done, log)
                stop = step % min(config.log_every, 10) == 0 or self.ranks.count == 1
                stop = stop and self.ranks.any(bool(asked), self.device)
                due = config.save_every is not None and done % config.save_every == 0
                if end_of_epoch or due or stop or done == end:
                    with self._aside(result):
                        self._save(done, best=best)
                if stop and done < end:
                    self.writer.flush()
                    # Whoever started us ends the first process too once another has left.
                    self.ranks.barrier()
                    raise Interrupted(
                        f"stopped after step {done} of {plan.steps}; "
                        f"go on with: dino train --resume {folder.path}"
                    )
            self.writer.flush()
        unreadable = feed.all_unreadable()
        if self.ranks.rank == 0:
            self._draw()
        self.reporter.finish()
        seconds = time.monotonic() - started
        return {
            "run": str(folder.path),
            "steps": max(start, end),
            "epochs": max(start, end) // per_epoch,
            "images": plan.images,
            "unreadable": len(unreadable),
            "loss": last if end > start else None,
            "seconds": round(seconds, 1),
            "images_per_second": round(max(0, end - start) * batch / seconds, 1),
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

    @contextmanager
    def _aside(self, result: StepResult) -> Iterator[None]:
        """What is done inside (k-NN, pictures, saving) is not counted as time of training."""
        result.loss.item()  # waits for the device, whose work up to here is training
        began = time.monotonic()
        yield
        self.aside += time.monotonic() - began

    # What is told

    def _count(self, result: StepResult) -> None:
        """Add to the epoch's loss, and count the steps that changed nothing; on the device."""
        good = 1 - result.skipped
        loss = torch.where(good > 0, result.loss, 0.0)
        self.epoch_loss += torch.stack([loss, good])
        count, now, most = self.skipped
        now = (now + 1) * result.skipped
        self.skipped = torch.stack([count + result.skipped, now, torch.maximum(most, now)])
        self.overflowed = (self.overflowed + 1) * result.overflowed

    def _open_log(self, start: int) -> AbstractContextManager[Log | None]:
        if self.ranks.rank != 0:
            return nullcontext()
        per_epoch = self.plan.steps_per_epoch
        return closing(Log(self.folder.log, resume_step=start, steps_per_epoch=per_epoch))

    def _tell(self, entry: dict[str, Any], seconds: float, log: Log | None) -> None:
        """One line of the log, the live figures, and what they mean."""
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
        self.diagnosis.see(entry, seconds)
        self._tell_skipped(entry["step"])
        if self.scaler:
            self._tell_overflowed(self.scaler.get_scale(), entry["step"])

    def _tell_skipped(self, step: int) -> None:
        count, now, most = (int(n) for n in self.skipped.tolist())
        self.skipped *= torch.tensor([0.0, 1.0, 0.0], device=self.device)
        config = self.config
        if most >= MOST_SKIPPED or now >= MOST_SKIPPED:
            self.writer.flush()
            ways = [f"--lr {config.lr / 2:g}"]
            if self.precision != "fp32":
                ways.append("--precision fp32")
            if config.clip_grad == 0 or config.clip_grad > 0.3:
                ways.append("--clip-grad 0.3")
            has = self.folder.checkpoint.is_file()
            again = f"dino train --resume {self.folder.path}" if has else "a new run and"
            raise TaskError(
                f"the loss or a gradient was not finite in {most} steps in a row, up to step "
                f"{step}; nothing of them was kept",
                f"go on with: {again} {' or '.join(ways)}",
            )
        if count:
            self.reporter.remark(
                f"up to step {step}, {count} steps with a loss or gradient that was not finite "
                "were skipped; if this repeats, lower --lr, or use --precision fp32 or a smaller "
                "--clip-grad"
            )

    def _tell_overflowed(self, scale: float, step: int) -> None:
        """Raise `TaskError` when fp16 holds the gradients no more: only the teacher moves then."""
        steps = int(self.overflowed.item())
        if steps < MOST_OVERFLOWED and scale >= 1:
            return
        self.writer.flush()
        has = self.folder.checkpoint.is_file()
        again = f"dino train --resume {self.folder.path}" if has else "a new run and"
        raise TaskError(
            f"gradients overflow in fp16, in {steps} steps in a row up to step {step}, though "
            f"their scale is down to {scale:g}; the weights do not move any more",
            f"go on with: {again} --precision bf16 or --precision fp32",
        )

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
