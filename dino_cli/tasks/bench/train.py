"""`dino bench train`: whole training, from JPEG files to the teacher's average."""

import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader
from torchvision import datasets

from dino_cli.config.bench import BenchTrainConfig
from dino_cli.config.setting import flag_of
from dino_cli.config.train import TrainConfig
from dino_cli.errors import UsageError
from dino_cli.progress import Reporter
from dino_cli.runtime import (
    available_cores,
    choose_device,
    choose_precision,
    forking,
    starting_workers,
)
from dino_cli.store.runs.log import Log
from dino_cli.tasks.bench.limits import matrix_peak
from dino_cli.tasks.bench.measure import PairedTimes, describe, finish, row
from dino_cli.tasks.bench.networks import architecture
from dino_cli.tasks.bench.photos import write_photos
from dino_cli.tasks.bench.reference import Step, ten_views
from dino_cli.tasks.train.cost import gflop_per_image
from dino_cli.tasks.train.run import train
from dino_cli.tasks.train.setup import architecture_of

__all__ = ["bench_train"]

AHEAD = 4  # batches that a worker reads ahead, in ours; in torch's loader two
LEAST = 3  # steps measured


def bench_train(config: BenchTrainConfig, reporter: Reporter) -> dict[str, Any]:
    """Seconds an image once training runs evenly: what was read ahead before does not count.

    Ours is `dino train` as it is, with its log, its health figures and its checkpoints, of one
    process. Returns what `measure.describe` says, "precision" and "rows" as of `measure.row`.
    """
    for name in ("photos", "batch_size", "out_dim"):
        if getattr(config, name) < 1:
            raise UsageError(f"{flag_of(name)} must be at least 1")
    if config.photos < config.batch_size:
        raise UsageError(f"--photos {config.photos} is less than one batch of {config.batch_size}")
    if not config.seconds >= 0:
        raise UsageError(f"--seconds {config.seconds:g} is not a time", "use --seconds 20")
    architecture(config.arch, config.patch_size)  # refuses an impossible patch
    device = choose_device(config.device)
    precision = choose_precision(config.precision, device)
    workers = min(config.workers, available_cores())
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made) / "data"
        write_photos(folder, config.photos, 375, 500)
        asked = TrainConfig(
            data=(str(folder),),
            arch=config.arch,
            patch_size=config.patch_size,
            out_dim=config.out_dim,
            batch_size=config.batch_size,
            precision=config.precision,
            compile=config.compile,
            cuda_graph=config.cuda_graph,
            views=config.views,
            workers=config.workers,
            device=str(device),
            watch=0,
            keep_every=0,
            log_every=10 if device.type == "cuda" else 1,
        )
        reporter.stage("training, our way", None, "steps")
        ours = _ours(asked, Path(made), workers, config.seconds / 2)
        reporter.stage("training, the original's way", None, "steps")
        theirs = _theirs(config, folder, device, workers, config.seconds / 2)
        reporter.finish()
        limit = 1e9 * gflop_per_image(asked, architecture_of(asked))
    pair = PairedTimes(ours=ours, reference=theirs, ratio=theirs / ours, cpu_ratio=None, pairs=1)
    return {
        **describe(device),
        "precision": precision,
        "rows": [
            row(
                f"training from JPEGs, {config.arch}/{config.patch_size}, batch "
                f"{config.batch_size}, {workers} workers",
                pair,
                1,
                "image",
                limit=limit / matrix_peak(device, precision),
                limit_is=f"{precision} matrix peak",
            )
        ],
    }


def _ours(config: TrainConfig, folder: Path, workers: int, seconds: float) -> float:
    """A first run says how many steps the second has to take."""
    every = config.log_every
    ahead = AHEAD * workers + every
    first = _seconds_of_steps(config, folder / "first", ahead + 3 * every, ahead)
    more = max(LEAST * every, round(seconds / first))
    return _seconds_of_steps(config, folder / "run", ahead + more, ahead) / config.batch_size


def _seconds_of_steps(config: TrainConfig, run: Path, steps: int, ahead: int) -> float:
    """Mean seconds of a step after the first `ahead`, by the run's own log."""
    train(replace(config, output=run, max_steps=steps), Reporter())
    lines = [line for line in Log.read(run / "log.jsonl") if line.get("step", 0) > ahead]
    took = [config.batch_size / float(line["images_per_second"]) for line in lines]
    return sum(took) / len(took)


def _theirs(
    config: BenchTrainConfig, folder: Path, device: torch.device, workers: int, seconds: float
) -> float:
    step = Step(config.arch, config.patch_size, config.out_dim, device, half=device.type == "cuda")
    loader = DataLoader(
        datasets.ImageFolder(folder, ten_views()),
        batch_size=config.batch_size,
        shuffle=True,
        num_workers=workers,
        pin_memory=device.type == "cuda",
        drop_last=True,
        multiprocessing_context=forking(workers),
    )
    with starting_workers():
        batches = iter(loader)

    def steps() -> Iterator[None]:
        views: list[Tensor]
        for views, _ in batches:
            step([view.to(device, non_blocking=True) for view in views])
            yield

    running = steps()
    for _ in islice(running, 2 * workers + 1):
        pass
    finish(device)
    count, started = 0, time.perf_counter()
    for _ in running:
        count += 1
        if count >= LEAST and time.perf_counter() - started >= seconds:
            break
    finish(device)
    return (time.perf_counter() - started) / count / config.batch_size
