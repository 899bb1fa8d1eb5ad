"""The first steps of a training, run while one waits."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dino_cli.config.resolve import resolve
from dino_cli.config.shared import ComputeOptions
from dino_cli.config.train import TrainConfig
from dino_cli.progress import Reporter
from dino_cli.store.runs.log import Log
from dino_cli.tasks.train.run import train

__all__ = [
    "RECIPE_IMAGES",
    "LiveSteps",
    "WholeRun",
    "about",
    "compute_flags",
    "demo_recipe",
    "live_steps",
]

RECIPE = "demo"
RECIPE_IMAGES = 12_000  # what the recipe is made for


def demo_recipe(**flags: Any) -> TrainConfig:
    """The recipe that trained the shipped backbone, with these options of `dino train` changed."""
    given = {"preset": RECIPE, **flags}
    return resolve(TrainConfig(**given), given.keys())


def compute_flags(options: ComputeOptions) -> dict[str, Any]:
    """Device and precision for `dino train`, where the person chose them."""
    chosen = {"device": options.device, "precision": options.precision}
    return {name: value for name, value in chosen.items() if value != "auto"}


class ForwardedProgress(Reporter):
    """Passes on how far a training is, under another name; keeps its remarks for itself."""

    def __init__(self, reporter: Reporter, name: str) -> None:
        self.reporter, self.name = reporter, name

    def stage(
        self, name: str, total: int | None = None, unit: str = "images", done: int = 0
    ) -> None:
        self.reporter.stage(self.name, total, unit, done)

    def advance(self, count: int = 1) -> None:
        self.reporter.advance(count)

    def metric(self, values: Mapping[str, float | int | str]) -> None:
        self.reporter.metric(values)

    def finish(self) -> None:
        self.reporter.finish()


class WholeRun(ForwardedProgress):
    """Shows each part of the training as what it is of the whole, and the time left for that."""

    def __init__(self, reporter: Reporter, images: int) -> None:
        super().__init__(reporter, "training")
        self.images = images
        self.before = self.done = 0
        self.started = time.monotonic()

    def stage(
        self, name: str, total: int | None = None, unit: str = "images", done: int = 0
    ) -> None:
        super().stage(name, self.images, unit, done)
        self.before = self.done = done
        self.started = time.monotonic()

    def advance(self, count: int = 1) -> None:
        self.done += count
        super().advance(count)

    def metric(self, values: Mapping[str, float | int | str]) -> None:
        if self.done > self.before:
            pace = (time.monotonic() - self.started) / (self.done - self.before)
            values = {**values, "left": about(pace * (self.images - self.done) / 60)}
        super().metric(values)


def about(minutes: float) -> str:
    """Minutes in words."""
    return f"{max(1, round(minutes))} min" if minutes >= 0.5 else "under a minute"


@dataclass(frozen=True, kw_only=True)
class LiveSteps:
    """The loss of each step, and how fast they went."""

    losses: list[float]
    images_per_second: float

    def json(self) -> dict[str, Any]:
        """first, last: mean loss over a tenth of the steps at either end."""
        tenth = max(1, len(self.losses) // 10)
        return {
            "steps": len(self.losses),
            "first": sum(self.losses[:tenth]) / tenth,
            "last": sum(self.losses[-tenth:]) / tenth,
            "losses": self.losses,
            "images_per_second": self.images_per_second,
        }


def live_steps(
    images: Path, count: int, run: Path, steps: int, options: ComputeOptions, reporter: Reporter
) -> LiveSteps:
    """Train the demo's recipe from nothing for some steps, with `dino train`'s own loop.

    images: folder with `count` of them, at least one batch of 32. run: new folder for the run.
    Raises what `train` raises.
    """
    recipe = demo_recipe(data=(str(images),))
    # Epochs of fewer images are shorter: with as many more, the schedules start as in the recipe.
    longer = max(1, round(RECIPE_IMAGES / count))
    config = demo_recipe(
        data=(str(images),),
        epochs=recipe.epochs * longer,
        warmup_epochs=(recipe.warmup_epochs or 0) * longer,
        warmup_teacher_temp_epochs=recipe.warmup_teacher_temp_epochs * longer,
        freeze_last_layer=recipe.freeze_last_layer * longer,
        output=run,
        max_steps=steps,
        log_every=1,
        watch=0,
        workers=0,  # starting one takes longer than these steps would gain
        **compute_flags(options),
    )
    result = train(config, ForwardedProgress(reporter, "training, live"))
    entries = [entry for entry in Log.read(run / "log.jsonl") if "step" in entry]
    return LiveSteps(
        losses=[float(entry["loss"]) for entry in entries],
        images_per_second=float(result["images_per_second"]),
    )
