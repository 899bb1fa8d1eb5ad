"""`dino demo --train`: the whole training from nothing, and what the heads see as it goes."""

import json
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dino_cli import __version__
from dino_cli.config.demo import DemoConfig
from dino_cli.config.resolve import resolve
from dino_cli.config.train import TrainConfig
from dino_cli.core.network.backbone import Backbone, build
from dino_cli.errors import Interrupted, TaskError
from dino_cli.progress import Reporter
from dino_cli.runtime import choose_device, choose_precision, one_thread, usable_threads
from dino_cli.store.pages import write_page
from dino_cli.store.runs.checkpoints import find_checkpoint, load_checkpoint
from dino_cli.store.runs.folder import RunFolder
from dino_cli.store.runs.log import Log
from dino_cli.store.weights.load import Weights
from dino_cli.store.writing.atomic import atomic_write
from dino_cli.store.writing.targets import check_free, explain_errors
from dino_cli.tasks.demo.draw import draw_folder
from dino_cli.tasks.demo.live import (
    RECIPE_IMAGES,
    WholeRun,
    about,
    compute_flags,
    demo_recipe,
)
from dino_cli.tasks.demo.look import draw_all, examples, look_masks, look_neighbors
from dino_cli.tasks.demo.page import moment_values, training_values
from dino_cli.tasks.demo.run import command_line, demo_seed, next_commands
from dino_cli.tasks.demo.scores import input_sizes
from dino_cli.tasks.model import Model, open_model
from dino_cli.tasks.train.run import train
from dino_cli.tasks.train.setup import architecture_of, attention_size_of, preprocessing_of

__all__ = ["MOMENTS", "TRAINING_PAGE", "TrainingSizes", "read_moments", "train_demo"]

TRAINING_PAGE = "training.html"
MOMENTS = "training.json"
MEASURED = ("step", "minutes", "knn", "iou", "best_iou", "found")  # at every moment
IMAGES = "training-images"
RUN = "run"


@dataclass(frozen=True, kw_only=True)
class TrainingSizes:
    """The training's images, and how often and on how many drawings it is looked at."""

    images: int = RECIPE_IMAGES
    size: int = 96
    every: int = 500
    bank: int = 1000
    queries: int = 200
    masks: int = 60
    gallery: int = 8
    large: int = 3


SIZES = TrainingSizes()


def train_demo(config: DemoConfig, reporter: Reporter) -> dict[str, Any]:
    """Train the demo's backbone below `config.output`, or go on where it stopped.

    Every few hundred steps the page training.html gets a row. Returns {"page", "run", "seed",
    "steps", "total", "moments": [{"step", "knn", "iou", …}]}. Raises `Interrupted` with the way to
    go on.
    """
    work = _Training(config, reporter)
    work.prepare()
    try:
        with one_thread():
            work.go_on()
    except (Interrupted, KeyboardInterrupt):
        again = next_commands(config)[2]["command"]
        raise Interrupted(
            f"stopped at step {work.step()} of {work.total}; go on with: {again}"
        ) from None
    return work.result()


class _Training:
    """One stretch of the training: the run folder, the moments it was looked at, the page."""

    def __init__(self, config: DemoConfig, reporter: Reporter) -> None:
        self.config, self.reporter, self.sizes = config, reporter, SIZES
        self.output = config.output
        self.images = self.output / IMAGES
        self.run = RunFolder(self.output / RUN)
        self.seed = demo_seed(config.seed)
        self.recipe = self._recipe()
        self.total = self.sizes.images // self.recipe.batch_size * self.recipe.epochs
        self.moments: list[dict[str, Any]] = []
        self.latest: list[Any] = []

    def _recipe(self, **flags: Any) -> TrainConfig:
        return demo_recipe(
            data=(str((self.images / "images").absolute()),),
            output=self.run.path,
            **compute_flags(self.config),
            **flags,
        )

    # What is there, and what is drawn

    def prepare(self) -> None:
        """Check what stands in the output, and draw the training's images unless they are there."""
        names = [] if self._goes_on() else [TRAINING_PAGE, MOMENTS, RUN, IMAGES]
        check_free(self.output, names, overwrite=self.config.overwrite)
        if self.config.overwrite:
            self._clear()
        self.moments = read_moments(self.output, seed=self.config.seed)
        with explain_errors(self.output):
            self.output.mkdir(exist_ok=True)
            self._write_moments()
        if not self.images.exists():
            # The shipped backbone's training images with the default seed.
            draw_folder(
                self.images,
                count=self.sizes.images,
                size=self.sizes.size,
                seed=1 + self.config.seed,
                style="mixed",
                reporter=self.reporter,
                workers=self.config.workers,
                masks=False,
            )
        small, large = input_sizes(self._untrained())
        self.drawings = draw_all(
            self.seed,
            bank=self.sizes.bank,
            queries=self.sizes.queries,
            masks=self.sizes.masks,
            gallery=self.sizes.gallery,
            sides=(small, large),
            processes=usable_threads(self.config.workers),
            reporter=self.reporter,
        )

    def _goes_on(self) -> bool:
        return (self.output / MOMENTS).is_file() and not self.config.overwrite

    def _clear(self) -> None:
        """Remove what an earlier training left."""
        with explain_errors(self.output):
            for name in (TRAINING_PAGE, MOMENTS):
                (self.output / name).unlink(missing_ok=True)
            for folder in (self.run.path, self.images):
                if folder.exists():
                    shutil.rmtree(folder)

    def _write_moments(self) -> None:
        stored = {"format": 1, "seed": self.config.seed, "moments": self.moments}
        with atomic_write(self.output / MOMENTS) as temporary:
            temporary.write_text(json.dumps(stored) + "\n")

    # The training, a few hundred steps at a time

    def step(self) -> int:
        """The steps that the newest checkpoint has behind it."""
        newest = find_checkpoint(self.run, self.reporter.remark)
        return 0 if newest is None else int(load_checkpoint(newest, mmap=True)["step"])

    def go_on(self) -> None:
        """Train to the end, looking at the network every few hundred steps."""
        done = self.step()
        if done == 0:
            shutil.rmtree(self.run.path, ignore_errors=True)  # killed before its first checkpoint
            self.moments = []
            self._look(self._untrained(), 0, 0.0)
        first, started = done, time.monotonic()
        while done < self.total:
            until = min(self.total, (done // self.sizes.every + 1) * self.sizes.every)
            began = time.monotonic()
            told = WholeRun(self.reporter, self.total * self.recipe.batch_size)
            train(self._chunk(until), told)
            done = until
            minutes = self.moments[-1]["minutes"] + (time.monotonic() - began) / 60
            self._look(self._trained(), done, minutes)
            left = (time.monotonic() - started) / (done - first) * (self.total - done) / 60
            now = self.moments[-1]
            self.reporter.remark(
                f"step {done} of {self.total}: overlap with the outlines {now['iou']:.2f}, k-NN"
                f" {now['knn']:.0f} %; {about(left)} left; see {self.output / TRAINING_PAGE}"
            )
        if not self.latest:  # it was complete before
            self._look(self._trained(), done, self.moments[-1]["minutes"])

    def _chunk(self, until: int) -> TrainConfig:
        if self.step() == 0:
            return self._recipe(max_steps=until)
        flags = {
            "resume": self.run.path,
            "max_steps": until,
            "data": self.recipe.data,
            **compute_flags(self.config),
        }
        return resolve(TrainConfig(**flags), flags.keys())

    # A look at the network

    def _untrained(self) -> Model:
        """The architecture of the recipe with random weights."""
        device = choose_device(self.config.device)
        weights = Weights(
            architecture=architecture_of(self.recipe),
            tensors={},
            name="untrained",
            source="",
            sha256="",
            preprocessing=preprocessing_of(self.recipe),
            attention_size=attention_size_of(self.recipe),
        )
        backbone = Backbone(build(weights.architecture).to(device))
        return Model(backbone, device, choose_precision(self.config.precision, device), weights)

    def _trained(self) -> Model:
        return open_model(
            DemoConfig(
                weights=self.run.teacher, device=self.config.device, precision=self.config.precision
            ),
            Reporter(),
        )

    def _look(self, model: Model, step: int, minutes: float) -> None:
        """Measure, keep the numbers and small pictures, and write the page anew."""
        quiet, batch = Reporter(), self.config.batch_size
        networks = {"trained": model}
        near = look_neighbors(networks, self.drawings, batch=batch, reporter=quiet)
        masks = look_masks(networks, self.drawings.masks, batch=batch, reporter=quiet)["trained"]
        gallery, photos = self.drawings.gallery, self.drawings.photos
        self.latest = examples(networks, gallery, photos, batch=batch)
        entry = self._logged(step)
        moment = {
            "step": step,
            "minutes": round(minutes, 2),
            "knn": near.numbers["top1"]["trained"]["seen"],
            "iou": masks["mean"]["iou"],
            "best_iou": masks["best_head"]["iou"],
            "best_head": masks["best_head"]["head"],
            "found": masks["mean"]["found"],
            "loss": entry.get("loss"),
            "teacher_entropy": entry.get("teacher_entropy"),
            **moment_values(self.latest),
        }
        self.moments = [m for m in self.moments if m["step"] < step] + [moment]
        with explain_errors(self.output):
            self._write_moments()
            values = training_values(
                self.moments,
                self.latest[: self.sizes.large],
                photos,
                total=self.total,
                version=__version__,
                numbers={
                    "images": self.sizes.images,
                    "bank": self.sizes.bank,
                    "queries": self.sizes.queries,
                    "masks": self.sizes.masks,
                },
                commands=self._next() if step == self.total else self._again(),
            )
            write_page(self.output / TRAINING_PAGE, "training", values)

    def _logged(self, step: int) -> Mapping[str, Any]:
        entries = [e for e in Log.read(self.run.log) if "loss" in e and e["step"] < step]
        return entries[-1] if entries else {}

    def _next(self) -> list[dict[str, str]]:
        out, images = self.output, self.images / "images"
        network = ("--weights", self.run.path)
        return [
            {
                "why": "The demo's page for the network that you trained:",
                "command": command_line("dino", "demo", *network, "-o", out / "own"),
            },
            {
                "why": "Its attention as heat maps, masks and arrays:",
                "command": command_line(
                    "dino", "attention", images / "cat/000009.png", *network, "-o", out / "cat"
                ),
            },
            {
                "why": "Its features, and how well they tell the classes of its drawings apart:",
                "command": command_line("dino", "embed", images, *network, "-o", out / "feats.npy")
                + " && "
                + command_line("dino", "knn", "--index", out / "feats.npy"),
            },
        ]

    def _again(self) -> list[dict[str, str]]:
        return [
            {
                "why": "Stopped? The same command goes on where it was:",
                "command": next_commands(self.config)[2]["command"],
            }
        ]

    def result(self) -> dict[str, Any]:
        return {
            "page": str(self.output / TRAINING_PAGE),
            "run": str(self.run.path),
            "seed": self.config.seed,
            "steps": self.moments[-1]["step"],
            "total": self.total,
            "moments": [{k: v for k, v in m.items() if k != "maps"} for m in self.moments],
            "next": [step["command"] for step in self._next()],
        }


def read_moments(output: Path, *, seed: int) -> list[dict[str, Any]]:
    """What a training that goes on has measured so far; nothing of a new one.

    Raises `TaskError` for a damaged file, and for one of another seed.
    """
    path = output / MOMENTS
    if not path.is_file():
        return []
    try:
        stored = json.loads(path.read_text())
        theirs, moments = int(stored["seed"]), list(stored["moments"])
        for moment in moments:
            if any(not isinstance(moment[key], int | float) for key in MEASURED):
                raise ValueError("moments")
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
        raise TaskError(f"{str(path)!r} is damaged", "start anew with --overwrite") from None
    if theirs != seed:
        raise TaskError(
            f"the training in {str(output)!r} has --seed {theirs}, not {seed}",
            "go on with that seed, or start anew with --overwrite",
        )
    return moments
