"""The videos of a run: frames read one after the other, seen in batches, drawn into new videos."""

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dino_cli.core.masks.objects import GUESS_BELOW
from dino_cli.progress import Reporter
from dino_cli.store.pictures.videos import named_videos
from dino_cli.tasks.attention.draw import DrawnResults, draw
from dino_cli.tasks.attention.gallery import Tiles
from dino_cli.tasks.attention.look import AttentionResult
from dino_cli.tasks.attention.outputs import Outputs
from dino_cli.tasks.attention.plan import AttentionPlan
from dino_cli.tasks.attention.stills import look_at
from dino_cli.tasks.photos.frames import EvenFrames, Frames, check_frames, read_batches
from dino_cli.tasks.photos.reading import LoadedPhoto

__all__ = ["run_video"]

MOST_STILLS = 8  # frames of a video on the page

WriteFrame = Callable[[str, NDArray[np.uint8]], None]


def run_video(
    plan: AttentionPlan,
    outputs: Outputs,
    frames: Frames,
    number: int,
    video: dict[str, Any],
    reporter: Reporter,
) -> None:
    """One video: in its folder `{heat,mask,overlay}_*.mp4` and `grid.mp4`, and its row.

    number: its place among the inputs; video: its entry in COCO's `videos`, which it gets once it
    is done. Holds three batches of frames, whatever its length. After Ctrl-C the frames so far
    become a shorter, whole video and `KeyboardInterrupt` goes on. Raises `UnreadableImage` when
    there is no frame, `Unfit` when frames do not go with the options, `ValueError` when they are
    too small.
    """
    reporter.stage(f"attention, {frames.path.name}", frames.count or None, "frames")
    write: WriteFrame | None = None
    with ExitStack() as stack:
        stack.callback(frames.close)
        if plan.asked.pictures:
            folder = stack.enter_context(outputs.writing(number))
            write = stack.enter_context(named_videos(folder, frames.fps))
        most = MOST_STILLS if outputs.wants_card(number) else 0
        stills = EvenFrames[Tiles](most, frames.fps)
        work = _Frames(plan, outputs, frames, number, video, write, stills)
        interrupted = work.run(reporter)
        if interrupted and not work.count:
            raise KeyboardInterrupt
        strict = plan.config.strict and not interrupted
        whole = not interrupted
        unread = check_frames(frames, work.count, reporter, strict=strict, whole=whole)
    facts = {**work.summary(), "frames": work.count, "fps": round(frames.fps, 4)}
    outputs.videos.append(video)
    outputs.done(number, facts, video["name"], stills.views(), unread)
    reporter.finish()
    if interrupted:
        raise KeyboardInterrupt


@dataclass
class _Frames:
    """The frames of one video on their way; a reader and a writer run beside the network."""

    plan: AttentionPlan
    outputs: Outputs
    frames: Frames
    number: int
    video: dict[str, Any]
    write: WriteFrame | None
    stills: EvenFrames[Tiles]
    count: int = 0
    overlaps: NDArray[np.float64] | float = 0.0  # of each head, summed over the frames
    scores: list[float] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)

    def run(self, reporter: Reporter) -> bool:
        """All frames; whether it was interrupted."""
        reader = self.plan.reader
        writing: Future[int] | None = None
        # While the network sees a batch, the next one is read and the last one written.
        with (
            ThreadPoolExecutor(reader.threads) as pool,
            ThreadPoolExecutor(1) as lane,
            read_batches(reader, self.frames, pool) as batches,
        ):
            try:
                for batch in batches:
                    seen = look_at(self.plan, batch)
                    if writing is not None:
                        reporter.advance(writing.result())
                    writing = lane.submit(self._write, pool, batch, seen)
                if writing is not None:
                    reporter.advance(writing.result())
            except KeyboardInterrupt:
                if writing is not None:
                    writing.result()
                return True
        return False

    def _write(
        self,
        pool: ThreadPoolExecutor,
        batch: Sequence[LoadedPhoto],
        seen: Sequence[AttentionResult],
    ) -> int:
        work: list[Future[DrawnResults]] = []
        for photo, one in zip(batch, seen, strict=True):
            # The head that fits best so far: a choice of each frame's own would flicker.
            self.overlaps = self.overlaps + np.asarray(one.overlaps[:-1])
            self.scores.append(one.score)
            page = self.stills.wants(self.count + len(work))
            best = int(self.overlaps.argmax())
            work.append(pool.submit(draw, self.plan, photo, one, best=best, page=page))
        for future in work:
            self._keep(future.result())
        return len(work)

    def _keep(self, drawn: DrawnResults) -> None:
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
            # Numbers of instances do not survive a video; overlays show them.
            if self.write is not None and not name.startswith("instances_"):
                self.write(name, _pixels(picture))
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


def _pixels(picture: Any) -> NDArray[np.uint8]:
    """A picture as RGB (H, W, 3): a heat map with its palette, a mask in black and white."""
    if isinstance(picture, Image.Image):
        return np.asarray(picture.convert("RGB"))
    if picture.ndim == 2:
        grey = picture.astype(np.uint8) * np.uint8(255)
        return np.repeat(grey[:, :, None], 3, axis=2)
    return np.asarray(picture, np.uint8)
