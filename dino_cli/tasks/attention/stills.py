"""The photos of a run: read in threads, seen by the network in groups, drawn in threads."""

from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import PurePath
from typing import Any

import numpy as np
import torch

from dino_cli.data.listing.images import ImageFile
from dino_cli.progress import Reporter
from dino_cli.runtime import available_cores
from dino_cli.store.pictures.attention import encoded, npy
from dino_cli.tasks.attention.draw import DrawnResults, draw
from dino_cli.tasks.attention.look import AttentionResult, attend
from dino_cli.tasks.attention.outputs import Outputs, wants_card
from dino_cli.tasks.attention.photos import LoadedPhoto, UnreadPhoto, photo_groups
from dino_cli.tasks.attention.plan import AttentionPlan

__all__ = ["Stills", "look_at"]


def look_at(plan: AttentionPlan, photos: Sequence[LoadedPhoto]) -> list[AttentionResult]:
    """One forward pass over photos of one shape."""
    pixels = torch.from_numpy(np.stack([photo.pixels for photo in photos]))
    asking = [photo.asking for photo in photos if photo.asking is not None]
    return attend(
        plan.model,
        pixels.permute(0, 3, 1, 2).contiguous(),
        plan.preprocessing,
        plan.config,
        asking or None,
    )


class Stills:
    """Photos on their way. files, names: of each photo, its place in the command's order first.

    file_names: as COCO tells them.
    """

    def __init__(
        self,
        plan: AttentionPlan,
        outputs: Outputs,
        files: Sequence[ImageFile],
        names: Sequence[PurePath],
        file_names: Sequence[str],
        reporter: Reporter,
    ) -> None:
        self.plan, self.outputs, self.reporter = plan, outputs, reporter
        self.files, self.names, self.file_names = files, names, file_names
        self.writing: deque[Future[tuple[int, dict[str, Any], DrawnResults]]] = deque()

    def run(self) -> None:
        """All photos. After an interruption those that were being written are finished."""
        config = self.plan.config
        threads = max(1, min(config.workers, available_cores()))
        pool = ThreadPoolExecutor(threads)
        self.reporter.stage("attention", len(self.files))
        try:
            groups = photo_groups(
                pool,
                self.files,
                self.plan.preprocessing,
                self.plan.patch,
                size=config.batch_size,
                ahead=2 * threads,
                query=self.plan.asked.query,
            )
            for group in groups:
                if isinstance(group, UnreadPhoto):
                    path = self.files[group.index].path
                    self.outputs.skip(group.index, path, group.reason, group.error)
                    self.reporter.advance()
                    continue
                for photo, seen in zip(group, look_at(self.plan, group), strict=True):
                    self.writing.append(pool.submit(self._write, photo, seen))
                self._finish(config.batch_size + 2 * threads)
            self._finish(0)
        finally:
            # What is being written is finished, so that no half folder stays behind.
            pool.shutdown(wait=True, cancel_futures=True)
            for future in self.writing:
                if future.done() and not future.cancelled() and not future.exception():
                    self._keep(*future.result())
        self.reporter.finish()

    def _finish(self, most: int) -> None:
        """Wait until at most so many photos are still being written."""
        while self.writing and (len(self.writing) > most or self.writing[0].done()):
            self._keep(*self.writing[0].result())
            self.writing.popleft()
            self.reporter.advance()

    def _write(
        self, photo: LoadedPhoto, seen: AttentionResult
    ) -> tuple[int, dict[str, Any], DrawnResults]:
        page = self.plan.asked.page and wants_card(photo.index)
        drawn = draw(self.plan, photo, seen, best=seen.best, page=page)
        folder = None
        if self.plan.asked.pictures:
            files = {"attention.npy": npy(seen.attention.numpy()), **encoded(drawn.pictures)}
            folder = str(self.outputs.folders.write(self.names[photo.index], files))
        row = {"input": str(self.files[photo.index].path), "folder": folder, **drawn.facts}
        return photo.index, row, drawn

    def _keep(self, index: int, row: dict[str, Any], drawn: DrawnResults) -> None:
        height, width = row["size"]
        image = {"file_name": self.file_names[index], "height": height, "width": width}
        self.outputs.annotate((index, 0), image, drawn)
        views = [("", drawn.tiles)] if drawn.tiles is not None else []
        self.outputs.done(index, row, self.file_names[index], views)
