"""From batches of crops to the views of a step."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor

from dino_cli.config.train import TrainConfig
from dino_cli.core.training.droppath import draw_masks
from dino_cli.core.training.step import Views
from dino_cli.data.decoding.decode import UnreadableImage
from dino_cli.data.decoding.own_depth import read_input
from dino_cli.data.listing.image_list import ImageFile
from dino_cli.data.views.batches import BatchPlan, ViewBatch, normalize_views
from dino_cli.data.views.pack import PhotoBatch
from dino_cli.data.views.render_batch import render_views
from dino_cli.errors import TaskError
from dino_cli.progress import Reporter
from dino_cli.runtime import Ranks
from dino_cli.store.runs.folder import resume_command
from dino_cli.tasks.train.setup import preprocessing_of

__all__ = ["Feed", "check_readable"]

FIRST_IMAGES = 1000  # of a run, or of its going on, that must be mostly readable


def check_readable(files: Sequence[ImageFile], config: TrainConfig) -> None:
    """Raise `TaskError` when no image at all can be read, before a run folder is made."""
    reason = ""
    p = preprocessing_of(config)
    for file in files:
        try:
            read_input(file.path, p)
            return
        except UnreadableImage as error:
            reason = reason or f"{file.path}: {error.reason}"
    raise TaskError(f"none of {len(files)} images can be read ({reason})", "check the data")


class Feed:
    """What a run trains on, step by step: read, told about where unreadable, put on the device."""

    def __init__(
        self,
        config: TrainConfig,
        plan: BatchPlan,
        batches: Iterator[ViewBatch | PhotoBatch],
        rates: Sequence[float],
        device: torch.device,
        run: Path,
        reporter: Reporter,
        ranks: Ranks,
    ) -> None:
        self.config, self.plan, self.batches = config, plan, batches
        self.rates, self.device = rates, device
        self.run, self.reporter, self.ranks = run, reporter, ranks
        self.unreadable: dict[str, str] = {}
        self.seen = 0  # images, by all ranks, up to the first thousand

    def read(self) -> list[ViewBatch | PhotoBatch]:
        """The micro-batches of the next step. Raises `TaskError` when they cannot be read, and
        when too many of the first thousand images cannot."""
        batches = [self._next() for _ in range(self.config.accumulate)]
        if self.seen < FIRST_IMAGES:
            self.seen += self.plan.total_batch
            self._check_share()
        return batches

    def all_unreadable(self) -> dict[str, str]:
        """Files that no rank could read, each once, with the reason; a collective."""
        return {
            path: why for one in self.ranks.everyone(self.unreadable) for path, why in one.items()
        }

    def views(self, batches: Sequence[ViewBatch | PhotoBatch], step: int) -> list[Views]:
        """The views of each micro-batch, on the device."""
        groups = [self._groups(batch) for batch in batches]
        masks = self._masks(groups[0], step)
        return [
            Views(groups=g, masks=[self._moved(mask[..., micro, :].flatten(1)) for mask in masks])
            for micro, g in enumerate(groups)
        ]

    def _check_share(self) -> None:
        bad = self.all_unreadable()
        most = self.config.max_unreadable
        # One total batch may be more than the first thousand.
        if len(bad) > most * max(FIRST_IMAGES, self.seen) and most < 1:
            path, reason = next(iter(bad.items()))
            raise TaskError(
                f"{len(bad)} files are unreadable among the first {self.seen} images, more than "
                f"{most * FIRST_IMAGES:g} in a thousand, such as {path} ({reason})",
                f"check the data, or go on with: {resume_command(self.run)} --max-unreadable 1",
            )

    def _next(self) -> ViewBatch | PhotoBatch:
        try:
            batch = next(self.batches)
        except (RuntimeError, ConnectionError, EOFError) as error:
            if isinstance(error, RuntimeError) and "DataLoader worker" not in str(error):
                raise
            raise TaskError(
                "a process that loads images died (killed, or out of memory)",
                f"go on with fewer: {resume_command(self.run)} --workers 1",
            ) from None
        for path, reason in batch.unreadable:
            if path not in self.unreadable:
                self.unreadable[path] = reason
                if self.config.strict:
                    raise TaskError(
                        f"{path} is unreadable ({reason})", "leave out --strict to skip it"
                    )
                self.reporter.remark(f"skipping {path}: {reason}")
        if batch.empty:
            raise TaskError(
                f"{len(self.unreadable)} files in a row are unreadable, such as "
                f"{next(iter(self.unreadable))}",
                "check the data",
            )
        return batch

    def _groups(self, batch: ViewBatch | PhotoBatch) -> list[Tensor]:
        """Normalised views on the device."""
        p = preprocessing_of(self.config)
        if isinstance(batch, PhotoBatch):
            return render_views(batch, p, self.device)
        return [normalize_views(group, p, self.device) for group in batch.groups]

    def _masks(self, groups: Sequence[Tensor], step: int) -> list[Tensor]:
        """Stochastic depth of this rank at a step, (layers, V_i, micro-batches, B) per resolution.

        Drawn for the whole total batch, so that neither ranks nor --accumulate change a run.
        """
        plan = self.plan
        if not any(self.rates):
            return []
        return [
            draw_masks(
                self.rates,
                # The zero was once a micro-batch: runs of then go on with the same masks.
                key=(self.config.seed, step, 0, i),
                views=group.shape[0] // plan.batch,
                images=plan.total_batch,
                share=slice(None),
            ).view(len(self.rates), -1, plan.accumulate, plan.batch * plan.ranks)[..., plan.share]
            for i, group in enumerate(groups)
        ]

    def _moved(self, mask: Tensor) -> Tensor:
        if self.device.type == "cuda":  # else a copy would wait for the step before
            mask = mask.pin_memory()
        return mask.to(self.device, non_blocking=True)
