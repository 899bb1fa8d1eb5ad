"""`dino bench views`: ten views of a photo after decoding, by one core or by the device."""

import random
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from dino_cli.config.bench import BenchViewsConfig
from dino_cli.config.setting import flag_of
from dino_cli.config.train import TrainConfig
from dino_cli.data.views.batches import normalize_views
from dino_cli.data.views.draws import ViewDraw, draw_view, uniforms
from dino_cli.data.views.pack import pack_photos, take_photo
from dino_cli.data.views.render import render_view
from dino_cli.data.views.render_batch import render_views
from dino_cli.errors import UsageError
from dino_cli.progress import Reporter
from dino_cli.runtime import choose_device, one_thread
from dino_cli.tasks.bench.limits import memory_bandwidth
from dino_cli.tasks.bench.measure import describe, paired, row
from dino_cli.tasks.bench.photos import draw_photos
from dino_cli.tasks.bench.reference import ten_views
from dino_cli.tasks.train.setup import preprocessing_of, view_schedule_of

__all__ = ["bench_views", "render_ten"]

HEIGHT, WIDTH = 375, 500
PHOTO = HEIGHT * WIDTH * 3  # bytes
VIEWS = (2 * 224**2 + 8 * 96**2) * 3 * (1 + 4)  # bytes of the ten, then as floats


def bench_views(config: BenchViewsConfig, reporter: Reporter) -> dict[str, Any]:
    """Seconds from decoded pixels to normalised tensors; one core, then the device if it is none.

    Returns what `measure.describe` says and "rows" as of `measure.row`.
    """
    for name in ("photos", "batch_size"):
        if getattr(config, name) < 1:
            raise UsageError(f"{flag_of(name)} must be at least 1")
    device, cpu = choose_device(config.device), torch.device("cpu")
    photos = draw_photos(config.photos, HEIGHT, WIDTH)
    pictures = [Image.fromarray(photo) for photo in photos]
    theirs = ten_views()
    epoch = 0

    def ours() -> None:
        nonlocal epoch
        epoch += 1
        for i, photo in enumerate(photos):
            render_ten(photo, i, epoch)

    def reference() -> list[list[Tensor]]:
        return [theirs(picture) for picture in pictures]

    random.seed(0)
    torch.manual_seed(0)
    rows = []
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        with one_thread():
            pair = paired(
                ours,
                reference,
                seconds=config.seconds,
                device=cpu,
                reporter=reporter,
                name="ten views on one core",
            )
            limit = (PHOTO + VIEWS) / memory_bandwidth(cpu)
            rows.append(
                row(
                    "ten views, one core",
                    pair,
                    config.photos,
                    "photo",
                    limit=limit,
                    limit_is="memory bandwidth",
                )
            )
            if device.type != "cpu":
                rows.append(_on_device(config, photos, reference, device, reporter))
    finally:
        cv2.setNumThreads(threads)
    return {**describe(device), "rows": rows}


def _on_device(
    config: BenchViewsConfig,
    photos: list[NDArray[np.uint8]],
    reference: Any,
    device: torch.device,
    reporter: Reporter,
) -> dict[str, object]:
    """A batch that lies packed in pinned memory, as workers leave it; the reference on one core."""
    p = preprocessing_of(TrainConfig())
    taken = [
        take_photo(photos[i % len(photos)], _draws(i, 0, HEIGHT, WIDTH))
        for i in range(config.batch_size)
    ]
    batch = pack_photos(taken, [])
    if device.type == "cuda":
        batch = batch._replace(
            pixels=batch.pixels.pin_memory(),
            rows=batch.rows.pin_memory(),
            values=batch.values.pin_memory(),
        )
    repeats = max(1, len(photos) // config.batch_size)

    def ours() -> None:
        for _ in range(repeats):
            render_views(batch, p, device)

    pair = paired(
        ours,
        reference,
        seconds=config.seconds,
        device=device,
        reporter=reporter,
        name=f"ten views on {device}",
    )
    per = repeats * config.batch_size
    told = row(
        f"ten views, batches of {config.batch_size} on the device",
        pair,
        per,
        "photo",
        limit=(PHOTO + VIEWS) / memory_bandwidth(device),
        limit_is="memory bandwidth",
    )
    # The two sides did different numbers of photos.
    told["reference"] = round(1000 * pair.reference / len(photos), 4)
    told["ratio"] = round(pair.ratio * per / len(photos), 3)
    return told


def _draws(image: int, epoch: int, height: int, width: int) -> list[list[ViewDraw]]:
    groups = view_schedule_of(TrainConfig()).at(1.0)
    u = uniforms(0, epoch, image, sum(len(group) for group in groups))
    rows = iter(u)
    return [[draw_view(spec, next(rows), height, width) for spec in group] for group in groups]


def render_ten(photo: NDArray[np.uint8], image: int, epoch: int) -> list[Tensor]:
    """Both groups of views (V, 3, H, W) of a photo, as a worker and the feed make them of one."""
    p = preprocessing_of(TrainConfig())
    groups = _draws(image, epoch, *photo.shape[:2])
    stacked = [np.stack([render_view(photo, draw) for draw in group]) for group in groups]
    cpu = torch.device("cpu")
    return [normalize_views(torch.from_numpy(views)[None], p, cpu) for views in stacked]
