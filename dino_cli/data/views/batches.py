"""Batches of views for training: which image when; read, cropped and stacked by workers."""

from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from dino_cli.config.shared import Preprocessing
from dino_cli.data.decoding.decode import UnreadableImage, read_image
from dino_cli.data.decoding.own_depth import read_samples
from dino_cli.data.listing.image_list import ImageFile, ImageList
from dino_cli.data.preprocess import normalize
from dino_cli.data.views.draws import ViewDraw, ViewSpec, draw_view, epoch_order, uniforms
from dino_cli.data.views.pack import PackedPhoto, PhotoBatch, pack_photos, take_photo
from dino_cli.data.views.render import render_view
from dino_cli.data.views.render_own_depth import render_samples
from dino_cli.data.workers import load

__all__ = ["BatchPlan", "ViewBatch", "ViewSchedule", "crop_batches", "normalize_views"]

MOST_PASSED_OVER = 100  # unreadable files in a row before an epoch gives up


@dataclass(frozen=True, kw_only=True)
class ViewSchedule:
    """The views of the run: what they look like at the start and once the ramp is over.

    globals_, locals_: specs at full strength (two, and any number of local ones). start: jitter
    (4), grey and solarise probabilities at the start of the ramp; ramp: share of the run over which
    they grow linearly. final_size: sides of global and local views in the last `final_share`.
    """

    globals_: tuple[ViewSpec, ViewSpec]
    locals_: tuple[ViewSpec, ...]
    ramp: float = 0.0
    start: tuple[float, float, float, float, float, float] = (0.0,) * 6
    final_size: tuple[int, int] | None = None
    final_share: float = 0.0

    def at(self, progress: float) -> tuple[tuple[ViewSpec, ...], ...]:
        """(global specs, local specs) when `progress` (0 to 1) of the run is done."""
        sizes = self.final_size if progress >= 1 - self.final_share else None
        groups = []
        for i, specs in enumerate((self.globals_, self.locals_)):
            groups.append(
                tuple(self._ramped(s, progress, sizes[i] if sizes else s.size) for s in specs)
            )
        return tuple(group for group in groups if group)

    def _ramped(self, spec: ViewSpec, progress: float, size: int | tuple[int, int]) -> ViewSpec:
        done = min(1.0, progress / self.ramp) if self.ramp > 0 else 1.0

        def grown(start: float, end: float) -> float:
            return start + (end - start) * done

        jitter = tuple(grown(a, b) for a, b in zip(self.start, spec.jitter, strict=False))
        solarize = grown(self.start[5], spec.solarize_prob) if spec.solarize_prob > 0 else 0.0
        return replace(
            spec,
            size=size,
            jitter=jitter,  # type: ignore[arg-type]
            grayscale_prob=grown(self.start[4], spec.grayscale_prob),
            solarize_prob=solarize,
        )


class _Key(NamedTuple):
    """What one item of a batch is made from."""

    image: int
    epoch: int
    progress: float


@dataclass(frozen=True, kw_only=True)
class BatchPlan:
    """Which images each step of each rank sees; a pure function of its fields.

    Every epoch is a permutation from (seed, epoch); the last partial total batch is dropped.
    Micro-batch m of a step covers `batch · ranks` images, of which this rank has its share.
    """

    images: int
    epochs: int
    batch: int
    seed: int
    accumulate: int = 1
    rank: int = 0
    ranks: int = 1

    @property
    def total_batch(self) -> int:
        return self.batch * self.ranks * self.accumulate

    @property
    def steps_per_epoch(self) -> int:
        return self.images // self.total_batch

    @property
    def steps(self) -> int:
        return self.steps_per_epoch * self.epochs

    @property
    def share(self) -> slice:
        """This rank's part of a micro-batch over all ranks."""
        return slice(self.rank * self.batch, (self.rank + 1) * self.batch)

    def micro_batches(self, start_step: int, end_step: int) -> Iterator[list[_Key]]:
        """This rank's micro-batches of the steps from start to end, `accumulate` per step."""
        order: NDArray[np.int64] = np.empty(0, np.int64)
        epoch = -1
        for step in range(start_step, end_step):
            if step // self.steps_per_epoch != epoch:
                epoch = step // self.steps_per_epoch
                order = epoch_order(self.images, self.seed, epoch)
            first = (step % self.steps_per_epoch) * self.total_batch
            progress = step / self.steps
            for m in range(self.accumulate):
                here = first + m * self.batch * self.ranks
                chosen = order[here : here + self.batch * self.ranks][self.share]
                yield [_Key(int(i), epoch, progress) for i in chosen]


class ViewBatch(NamedTuple):
    """One micro-batch from the workers: per resolution (B, V_i, h, w, C), uint8, or float32 of
    pictures in their own depth; files that were unreadable, with the reason (the next readable file
    stood in)."""

    groups: list[Tensor]
    unreadable: list[tuple[str, str]]

    @property
    def empty(self) -> bool:
        """Whether no file could be read."""
        return not self.groups


class _Crops(Dataset[Any]):
    def __init__(
        self,
        files: Sequence[ImageFile],
        schedule: ViewSchedule,
        seed: int,
        exif: bool,
        channels: int,
    ) -> None:
        self.files = ImageList.of(files)  # no Python strings, which workers would each copy
        self.schedule = schedule
        self.seed = seed
        self.exif = exif
        self.channels = channels

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, key: _Key) -> tuple[Any, list[tuple[str, str]]]:
        unreadable = []
        for offset in range(min(MOST_PASSED_OVER, len(self.files))):
            path = self.files.path((key.image + offset) % len(self.files))
            try:
                pixels = self.read(path)
                break
            except UnreadableImage as error:
                unreadable.append((str(path), error.reason))
        else:
            return self.nothing, unreadable
        specs = self.schedule.at(key.progress)
        u = uniforms(self.seed, key.epoch, key.image, sum(len(group) for group in specs))
        groups, first = [], 0
        for group in specs:
            groups.append(
                [draw_view(spec, u[first + i], *pixels.shape[:2]) for i, spec in enumerate(group)]
            )
            first += len(group)
        return self.render(pixels, groups), unreadable

    nothing: Any = ()  # in place of what could not be read

    def read(self, path: Path) -> NDArray[Any]:
        # A copy, because the memory of a PIL image is read-only.
        return np.array(read_image(path, exif=self.exif))

    def render(self, pixels: NDArray[Any], groups: list[list[ViewDraw]]) -> Any:
        """Per resolution uint8 (V_i, h, w, 3)."""
        return [np.stack([render_view(pixels, draw) for draw in group]) for group in groups]


class _Photos(_Crops):
    """Photos whose views are made later, on the device."""

    nothing = None

    def render(self, pixels: NDArray[Any], groups: list[list[ViewDraw]]) -> PackedPhoto:
        return take_photo(pixels, groups)


class _Samples(_Crops):
    """Pictures of `channels` channels in their own depth."""

    def read(self, path: Path) -> NDArray[Any]:
        return read_samples(path, self.channels, exif=self.exif)

    def render(self, pixels: NDArray[Any], groups: list[list[ViewDraw]]) -> Any:
        """Per resolution float32 (V_i, h, w, C)."""
        return [np.stack([render_samples(pixels, draw) for draw in group]) for group in groups]


def _collate_photos(items: list[tuple[PackedPhoto | None, list[tuple[str, str]]]]) -> PhotoBatch:
    unreadable = [entry for _, entries in items for entry in entries]
    return pack_photos([photo for photo, _ in items], unreadable)


def _collate(items: list[tuple[list[NDArray[Any]], list[tuple[str, str]]]]) -> ViewBatch:
    unreadable = [entry for _, entries in items for entry in entries]
    if any(not groups for groups, _ in items):
        return ViewBatch([], unreadable)
    stacked = [
        torch.from_numpy(np.stack(views)) for views in zip(*[g for g, _ in items], strict=True)
    ]
    return ViewBatch(stacked, unreadable)


class _Order(Sampler[list[_Key]]):
    def __init__(self, plan: BatchPlan, start_step: int, end_step: int) -> None:
        self.arguments = (start_step, end_step)
        self.plan = plan

    def __iter__(self) -> Iterator[list[_Key]]:
        return self.plan.micro_batches(*self.arguments)

    def __len__(self) -> int:
        return (self.arguments[1] - self.arguments[0]) * self.plan.accumulate


def crop_batches(
    files: Sequence[ImageFile],
    schedule: ViewSchedule,
    plan: BatchPlan,
    *,
    start_step: int,
    end_step: int,
    workers: int,
    exif: bool = True,
    pin: bool = False,
    photos: bool = False,
    channels: int = 3,
) -> Iterator[ViewBatch | PhotoBatch]:
    """Micro-batches of the steps from start to end, in order; workers run ahead across epochs.

    photos: the workers only decode, and `data.views.render_batch` makes the views. channels: unless
    3, pictures are read in their own depth (`data.decoding.own_depth`), and the workers make the
    views.
    """
    kind = _Samples if channels != 3 else _Photos if photos else _Crops
    data = kind(files, schedule, plan.seed, exif, channels)
    photos = kind is _Photos
    # OpenCV's threads must be gone before a process forks: the child would wait for them for ever.
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)
    batches = load(
        data,
        workers=workers,
        batch_sampler=_Order(plan, start_step, end_step),
        collate_fn=_collate_photos if photos else _collate,
        pin_memory=pin,
        prefetch_factor=4 if workers else None,
        persistent_workers=workers > 0,
    )
    if workers:
        cv2.setNumThreads(threads)
    with closing(batches):
        yield from batches


def normalize_views(views: Tensor, p: Preprocessing, device: torch.device) -> Tensor:
    """(B, V, h, w, C) → (V · B, C, h, w), view-major, as `data.preprocess.normalize`."""
    moved = views.to(device, non_blocking=True)  # as it lies, pinned; turned over there
    return normalize(moved.permute(1, 0, 4, 2, 3).flatten(0, 1), p, device)
