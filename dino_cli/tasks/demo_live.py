"""The first steps of a training, run while one waits."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dino_cli.config import ComputeOptions
from dino_cli.config_train import TrainConfig, resolve
from dino_cli.progress import Reporter
from dino_cli.store.checkpoint import Log
from dino_cli.tasks.train import train

__all__ = ["Forwarded", "LiveSteps", "compute_flags", "demo_recipe", "live_steps"]

RECIPE = "demo"


def demo_recipe(**flags: Any) -> TrainConfig:
    """The recipe that trained the shipped backbone, with these options of `dino train` changed."""
    given = {"preset": RECIPE, **flags}
    return resolve(TrainConfig(**given), given.keys())


def compute_flags(options: ComputeOptions) -> dict[str, Any]:
    """Device and precision for `dino train`, where the person chose them."""
    chosen = {"device": options.device, "precision": options.precision}
    return {name: value for name, value in chosen.items() if value != "auto"}


class Forwarded(Reporter):
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
    images: Path, run: Path, steps: int, options: ComputeOptions, reporter: Reporter
) -> LiveSteps:
    """Train the demo's recipe from nothing for some steps, with `dino train`'s own loop.

    images: folder with at least one batch of 32. run: new folder for the run. Raises what `train`
    raises.
    """
    config = demo_recipe(
        data=(str(images),),
        output=run,
        max_steps=steps,
        log_every=1,
        workers=0,  # starting one takes longer than these steps would gain
        **compute_flags(options),
    )
    result = train(config, Forwarded(reporter, "training, live"))
    entries = [entry for entry in Log.read(run / "log.jsonl") if "step" in entry]
    return LiveSteps(
        losses=[float(entry["loss"]) for entry in entries],
        images_per_second=float(result["images_per_second"]),
    )
