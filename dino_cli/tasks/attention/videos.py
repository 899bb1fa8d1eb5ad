"""The videos of a run: frames read one after the other, seen in batches, drawn into new videos."""

from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from itertools import islice
from pathlib import Path, PurePath
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dino_cli.core.masks.objects import GUESS_BELOW
from dino_cli.data.decoding.decode import UnreadableImage
from dino_cli.data.decoding.video import PictureFrames, VideoFrames
from dino_cli.progress import Reporter
from dino_cli.runtime import available_cores
from dino_cli.store.pictures.videos import VideoWriter, video_writer
from dino_cli.tasks.attention.draw import DrawnResults, draw
from dino_cli.tasks.attention.gallery import Tiles
from dino_cli.tasks.attention.look import AttentionResult
from dino_cli.tasks.attention.outputs import Outputs, wants_card
from dino_cli.tasks.attention.photos import LoadedPhoto, Unfit, photo_of
from dino_cli.tasks.attention.plan import AttentionPlan
from dino_cli.tasks.attention.stills import look_at

__all__ = ["Frames", "run_video"]

MOST_STILLS = 8  # frames of a video on the page

Frames = VideoFrames | PictureFrames


def run_video(
    plan: AttentionPlan,
    outputs: Outputs,
    frames: Frames,
    number: int,
    name: PurePath,
    video: dict[str, Any],
    reporter: Reporter,
) -> None:
    """One video: `OUT/name/{heat,mask,overlay}_*.mp4` and `grid.mp4`, and its row.

    number: its place among the inputs; video: its entry in COCO's `videos`. Holds three batches of
    frames, whatever its length. After Ctrl-C the frames so far become a shorter, whole video and
    `KeyboardInterrupt` goes on. Raises `UnreadableImage` when there is no frame, `Unfit` when
    frames do not go with the options.
    """
    reporter.stage(f"attention, {frames.path.name}", frames.count or None, "frames")
    with ExitStack() as stack:
        stack.callback(frames.close)
        folder = stack.enter_context(outputs.folders.writing(name)) if plan.asked.pictures else None
        work = _Frames(plan, outputs, frames, number, folder, video)
        try:
            interrupted = work.run(stack, reporter)
        except Unfit:
            raise
        except ValueError as error:
            raise UnreadableImage(str(error)) from None
        if not work.count and interrupted:
            raise KeyboardInterrupt
        if not work.count:
            raise UnreadableImage("no frame in it could be read")
    for path, reason in getattr(frames, "unread", []):
        reporter.remark(f"{str(path)!r} gave no frame: {reason}")
    if not interrupted and work.count < 0.95 * frames.count:
        reporter.remark(
            f"{str(frames.path)!r} says it has {frames.count} frames, but only {work.count} could"
            " be read"
        )
    row = {
        "input": str(frames.path),
        "folder": str(outputs.folders.root / name) if folder is not None else None,
        **work.summary(),
        "frames": work.count,
        "fps": round(frames.fps, 4),
    }
    outputs.done(number, row, video["name"], work.stills.views())
    reporter.finish()
    if interrupted:
        raise KeyboardInterrupt


class _Frames:
    """The frames of one video on their way; a reader and a writer run beside the network."""

    def __init__(
        self,
        plan: AttentionPlan,
        outputs: Outputs,
        frames: Frames,
        number: int,
        folder: Path | None,
        video: dict[str, Any],
    ) -> None:
        self.plan, self.outputs, self.frames = plan, outputs, frames
        self.number, self.folder, self.video = number, folder, video
        self.writers: dict[str, VideoWriter] = {}
        self.count = 0
        self.overlaps = np.zeros(plan.model.backbone.heads)
        self.scores: list[float] = []
        self.facts: dict[str, Any] = {}
        self.stills = _Stills(plan.asked.page and wants_card(number), frames.fps)

    def run(self, stack: ExitStack, reporter: Reporter) -> bool:
        """All frames; whether it was interrupted. The stack closes the writers."""
        source = iter(self.frames)
        threads = max(1, min(self.plan.config.workers, available_cores()))
        writing: Future[int] | None = None
        # Two lanes: while the network sees a batch, the next one is read, the last one written.
        with ThreadPoolExecutor(threads) as pool, ThreadPoolExecutor(2) as lanes:
            try:
                reading = lanes.submit(self._read, source, pool)
                while batch := reading.result():
                    reading = lanes.submit(self._read, source, pool)
                    seen = look_at(self.plan, batch)
                    if writing is not None:
                        reporter.advance(writing.result())
                    writing = lanes.submit(self._write, stack, pool, batch, seen)
                if writing is not None:
                    reporter.advance(writing.result())
            except KeyboardInterrupt:
                if writing is not None:
                    writing.result()
                return True
        return False

    def _read(self, source: Iterator[Any], pool: ThreadPoolExecutor) -> list[LoadedPhoto]:
        p, patch, query = self.plan.preprocessing, self.plan.patch, self.plan.asked.query
        frames = islice(source, self.plan.config.batch_size)
        return list(pool.map(lambda frame: photo_of(0, frame, p, patch, query), frames))

    def _write(
        self,
        stack: ExitStack,
        pool: ThreadPoolExecutor,
        batch: Sequence[LoadedPhoto],
        seen: Sequence[AttentionResult],
    ) -> int:
        work: list[Future[DrawnResults]] = []
        for photo, one in zip(batch, seen, strict=True):
            # The head that fits best so far: a choice of each frame's own would flicker.
            self.overlaps += one.overlaps[:-1]
            self.scores.append(one.score)
            page = self.stills.wants(self.count + len(work))
            best = int(self.overlaps.argmax())
            work.append(pool.submit(draw, self.plan, photo, one, best=best, page=page))
        for future in work:
            self._keep(stack, future.result())
        return len(work)

    def _keep(self, stack: ExitStack, drawn: DrawnResults) -> None:
        height, width = drawn.facts["size"]
        image = {
            "file_name": f"{self.video['name']}/{self.count:06d}.jpg",
            "height": height,
            "width": width,
            "video_id": self.video["id"],
            "frame_index": self.count,
        }
        self.outputs.annotate((self.number, self.count), image, drawn)
        for name, picture in drawn.pictures.items():
            if name.startswith("instances_"):  # numbers do not survive a video; overlays show them
                continue
            frame = _pixels(picture)
            if name not in self.writers:
                assert self.folder is not None
                size = (frame.shape[0], frame.shape[1])
                writer = video_writer(self.folder / f"{name}.mp4", size, self.frames.fps)
                self.writers[name] = stack.enter_context(writer)
            self.writers[name].write(frame)
        if drawn.tiles is not None:
            self.stills.add(self.count, drawn.tiles)
        self.facts = drawn.facts
        self.count += 1

    def summary(self) -> dict[str, Any]:
        """What the row says: of the last frame what all share, the mean of the scores."""
        facts = {key: value for key, value in self.facts.items() if key != "instances"}
        if "score" in facts:
            score = sum(self.scores) / len(self.scores)
            guess = score < GUESS_BELOW[self.plan.config.masks]
            facts |= {"score": round(score, 4), "guess": guess}
        return facts


class _Stills:
    """A few frames of a video of unknown length, evenly apart, for the page."""

    def __init__(self, wanted: bool, fps: float) -> None:
        self.wanted, self.fps, self.apart = wanted, fps, 1
        self.kept: dict[int, Tiles] = {}

    def wants(self, frame: int) -> bool:
        return self.wanted and frame % self.apart == 0

    def add(self, frame: int, tiles: Tiles) -> None:
        self.kept[frame] = tiles
        while len(self.kept) > MOST_STILLS:
            self.apart *= 2
            self.kept = {n: kept for n, kept in self.kept.items() if n % self.apart == 0}

    def views(self) -> list[tuple[str, Tiles]]:
        return [(f"{frame / self.fps:.1f} s", tiles) for frame, tiles in self.kept.items()]


def _pixels(picture: Any) -> NDArray[np.uint8]:
    """A picture as RGB (H, W, 3): a heat map with its palette, a mask in black and white."""
    if isinstance(picture, Image.Image):
        return np.asarray(picture.convert("RGB"))
    if picture.ndim == 2:
        grey = picture.astype(np.uint8) * np.uint8(255)
        return np.repeat(grey[:, :, None], 3, axis=2)
    return np.asarray(picture, np.uint8)
