"""What the figures of a run mean, in words, once each."""

import math
from collections.abc import Iterable, Mapping
from statistics import mean, median
from typing import Any

from dino_cli.config.train import TrainConfig
from dino_cli.data.views.batches import BatchPlan
from dino_cli.progress import Reporter
from dino_cli.runtime import available_cores, cores_per_process
from dino_cli.tasks.train.setup import warmup_epochs_of

__all__ = ["Diagnosis"]

# Nats by which targets differ between images: 1.2 to 2 in runs that learn, .1 and less in those
# that collapsed.
COLLAPSED_SPREAD = 0.3
# Targets of fewer images differ less, by ln n nats where each image has its own, and more from
# line to line: the mean of the last lines is compared with as much less. One image says nothing.
FEW_IMAGES = 8
# With targets so alike, an entropy above this share of ln K is uniform, below it one-hot collapse.
UNIFORM_SHARE = 0.5
# Below this share of ln K a run still learns, slowly, unless targets are equal to a thousandth nat:
# then the loss is that of a centre which has not caught up.
UNIFORM_LOSS = 0.97
SAME_SPREAD = 0.001
# Healthy runs move weights by .05 to .2 % of their length in a step; with a hundred times their
# rate by 1.5 to 5 %. LARS takes steps in proportion to that length: 1.2 to 2.1 % at the 4.8 of the
# original's ResNet-50, and with its momentum at most 10 · η (.001) · the rate.
LARGE_UPDATE = {"adamw": 0.01, "sgd": 0.01, "lars": 0.05}
USUAL_UPDATE = {"adamw": "0.05 to 0.3 %", "sgd": "0.05 to 0.3 %", "lars": "0.5 to 2 %"}
# Features lose rank while targets still differ: k-NN fell from 46 to 35 % as the rank went from 17
# to 3 over 60 epochs, with a spread of .42. Runs that learn lose half of what they had after the
# warm-up at most, and stay at 10 or more; networks too narrow for that do not lose two thirds.
LOST_RANK = 1 / 3  # of the run's own best since the warm-up
LOW_RANK = 6.0
LINES = 5  # of the log, that a rate, a rank or a wait must last
# A run that ends has no time for all patience: so long must a collapse have lasted then.
LAST_LINES, LAST_SHARE = 3, 0.4
MUCH_WAITING = 0.2
SECONDS_BEFORE_WAITING = 20.0  # while workers start


class Diagnosis:
    """Reads the lines of the log as they come and tells what goes wrong, and what to change."""

    def __init__(self, config: TrainConfig, plan: BatchPlan, reporter: Reporter) -> None:
        self.config, self.plan, self.reporter = config, plan, reporter
        # A twentieth of the run, so that a slow start is no collapse.
        self.patience = min(1000, max(50, plan.steps // 20))
        self.most = math.log(config.out_dim)
        self.spreads: list[float] = []  # of the last lines
        images = min(config.batch_size, FEW_IMAGES)
        self.least_spread = COLLAPSED_SPREAD * math.log(images) / math.log(FEW_IMAGES)
        self.collapsed_lines = self.collapsed_since = self.collapsed_until = 0  # lines in a row
        self.entropy_share = 0.0  # of the last of them
        self.was_sound = False
        # Until then the rank falls in every run: that of random features says nothing.
        self.warm = round(warmup_epochs_of(config) * plan.steps_per_epoch)
        self.ranks_count_from = max(self.warm, self.patience)
        self.ranks: list[float] = []
        self.best_rank, self.best_rank_step = 0.0, 0
        self.lost: list[int] = []  # steps of lines, in a row
        self.updates: list[float] = []
        self.waits: list[float] = []
        self.seconds = 0.0
        self.said: set[str] = set()

    def see(self, entry: Mapping[str, Any], seconds: float) -> None:
        """entry: a line with a step; seconds: since the one before."""
        self.seconds += seconds
        self._see_collapse(entry)
        self._see_rank(entry)
        self._see_update(entry)
        self._see_wait(entry)

    def recall(self, entries: Iterable[Mapping[str, Any]]) -> None:
        """Lines of a run that goes on: since when it has collapsed or lost rank; says nothing.

        Not its rate and its waiting, which may be what a person has changed now.
        """
        aloud, self.reporter = self.reporter, Reporter()
        for entry in entries:
            if "step" in entry:
                self._see_collapse(entry)
                self._see_rank(entry)
        self.reporter = aloud
        self.said.clear()  # what goes on is told again, to whoever goes on

    def end(self) -> None:
        """The last line was seen. A collapse too short to be told before is told now, unless it was
        there from the start: so begins a slow run, too."""
        if self.was_sound and self.collapsed_lines >= LAST_LINES:
            self._tell_collapse(after=LAST_SHARE * self.patience)

    def _see_collapse(self, entry: Mapping[str, Any]) -> None:
        if self.config.batch_size < 2:  # the figures are of one process's micro-batch
            return
        spread, share = entry["target_spread"], entry["entropy_share"]
        if spread is None or share is None:
            self.spreads, self.collapsed_lines = [], 0
            return
        if self.config.batch_size < FEW_IMAGES:
            self.spreads = [*self.spreads[1 - LINES :], spread]
            spread = mean(self.spreads)
        low = entry["loss"] is not None and entry["loss"] < UNIFORM_LOSS * self.most
        learning = share > UNIFORM_SHARE and low and spread > SAME_SPREAD
        if spread > self.least_spread or learning:
            self.collapsed_lines, self.was_sound = 0, True
            return
        self.collapsed_until, self.entropy_share = entry["step"], share
        if not self.collapsed_lines:
            self.collapsed_since = entry["step"]
        self.collapsed_lines += 1
        self._tell_collapse(after=self.patience)

    def _tell_collapse(self, *, after: float) -> None:
        """If it has lasted so many steps."""
        steps, share = self.collapsed_until - self.collapsed_since, self.entropy_share
        if steps < after:
            return
        if share > UNIFORM_SHARE:
            self._say(
                "uniform",
                f"uniform collapse: for {steps} steps the teacher has said the same about every "
                f"image (its entropy is {100 * share:.0f} % of ln K, the loss stays near ln K); "
                f"{self._against_uniform()}",
            )
        else:
            self._say(
                "point",
                f"point collapse: for {steps} steps the teacher has given all images the same "
                f"prototype (its entropy is {100 * share:.0f} % of ln K); {self._against_point()}",
            )

    def _against_uniform(self) -> str:
        config, changes = self.config, []
        if config.warmup_teacher_temp > 0.04 or config.teacher_temp > 0.07:
            changes.append("--teacher-temp 0.04 --warmup-teacher-temp 0.04 (a hot teacher is flat)")
        else:
            changes.append(f"--warmup-teacher-temp {config.warmup_teacher_temp / 2:g}")
        if not config.use_bn_in_head:
            changes.append("--use-bn-in-head (small data needs it)")
        if config.freeze_last_layer < 2:
            changes.append(f"--freeze-last-layer {config.freeze_last_layer + 1:g}")
        changes.append(f"--lr {config.lr / 2:g}")
        return "start anew with " + ", or ".join(changes)

    def _against_point(self) -> str:
        config, changes = self.config, []
        if config.center_momentum > 0.99:
            changes.append("--center-momentum 0.9 (the centre hardly moves now)")
        if config.center_init == "zero":
            changes.append("--center-init batch")
        if config.teacher_temp < 0.04:
            changes.append("--teacher-temp 0.04")
        changes.append(f"--lr {config.lr / 2:g}")
        return "start anew with " + ", or ".join(changes)

    def _keep_rank(self, entry: Mapping[str, Any]) -> float | None:
        """The median rank of the last lines, when they count; the best of the run beside it."""
        if entry.get("feature_rank") is None or entry["step"] < self.ranks_count_from:
            return None
        self.ranks = [*self.ranks[1 - LINES :], entry["feature_rank"]]
        if len(self.ranks) < LINES:
            return None
        rank = median(self.ranks)
        if rank > self.best_rank:
            self.best_rank, self.best_rank_step = rank, entry["step"]
        return rank

    def _see_rank(self, entry: Mapping[str, Any]) -> None:
        rank, step = self._keep_rank(entry), entry["step"]
        if rank is None:
            return
        if rank >= min(LOW_RANK, LOST_RANK * self.best_rank):
            self.lost = []
            return
        self.lost.append(step)
        if len(self.lost) >= LINES and step - self.lost[0] >= self.patience:
            self._say(
                "rank",
                f"features lose rank: they use {rank:.1f} directions now, {self.best_rank:.1f} at "
                f"step {self.best_rank_step}, and k-NN mostly falls with that; "
                f"{self._against_rank()}",
            )

    def _against_rank(self) -> str:
        config = self.config
        # Half as far from 1, which doubles the steps that the teacher averages over; at least the
        # paper's.
        momentum = max(0.996, (1 + config.momentum_teacher) / 2)
        changes = [f"--momentum-teacher {momentum:.4g}", f"--lr {config.lr / 2:g}"]
        if config.koleo_weight < 0.1:
            changes.insert(0, "--koleo-weight 0.1 (it spreads them)")
        more = f"--batch-size {2 * config.batch_size}"
        return f"start anew with {', '.join(changes)}, or a larger batch ({more})"

    def _see_update(self, entry: Mapping[str, Any]) -> None:
        if entry["update_ratio"] is None or entry["step"] < self.warm:
            return
        self.updates = [*self.updates[1 - LINES :], entry["update_ratio"]]
        optimizer = self.config.optimizer
        if len(self.updates) == LINES and median(self.updates) > LARGE_UPDATE[optimizer]:
            self._say(
                "rate",
                f"the learning rate is too high for this batch: a step changes the weights by "
                f"{100 * median(self.updates):.1f} % of their length ({USUAL_UPDATE[optimizer]} is "
                f"usual); start anew with --lr {self.config.lr / 10:g} or a longer --warmup-epochs",
            )

    def _see_wait(self, entry: Mapping[str, Any]) -> None:
        if self.seconds < SECONDS_BEFORE_WAITING:
            return
        self.waits = [*self.waits[1 - LINES :], entry["data_wait"]]
        wait = median(self.waits)
        if len(self.waits) == LINES and wait > MUCH_WAITING:
            cores = cores_per_process()
            workers = min(self.config.workers, cores)
            if workers < cores:
                way = f"go on with --workers {min(cores, max(1, 2 * workers))}"
            else:
                way = (
                    f"all {available_cores()} cores read images already: store them smaller "
                    "(512 px)"
                )
            self._say("wait", f"{100 * wait:.0f} % of the time goes into waiting for images; {way}")

    def _say(self, which: str, text: str) -> None:
        if which not in self.said:
            self.said.add(which)
            self.reporter.remark(text)
