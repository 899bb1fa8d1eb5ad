"""The photos of a run on their way: read in threads, seen by the network, drawn in threads."""

from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from dino_cli.data.listing.image_list import ImageFile
from dino_cli.progress import Reporter
from dino_cli.tasks.photos.reading import LoadedPhoto, PhotoReader, UnreadPhoto
from dino_cli.tasks.photos.results import Results

__all__ = ["draw_photos"]

Seen = TypeVar("Seen")
Drawn = TypeVar("Drawn")


def draw_photos(
    reader: PhotoReader,
    files: Sequence[ImageFile],
    see: Callable[[Sequence[LoadedPhoto]], Sequence[Seen]],
    draw: Callable[[LoadedPhoto, Seen], Drawn],
    keep: Callable[[int, Drawn], None],
    results: Results,
    reporter: Reporter,
) -> None:
    """The files, which are the first inputs of `results`, one group after the other.

    see: one forward pass over photos of one shape; draw: a photo's pictures, in a thread; keep:
    what was drawn, by number, in this thread. After an interruption the photos that were being
    drawn are finished and kept.
    """
    pool = ThreadPoolExecutor(reader.threads)
    drawing: deque[tuple[int, Future[Drawn]]] = deque()

    def finish(most: int) -> None:
        """Wait until at most so many photos are still being drawn."""
        while drawing and (len(drawing) > most or drawing[0][1].done()):
            index, future = drawing[0]
            keep(index, future.result())
            drawing.popleft()
            reporter.advance()

    try:
        for group in reader.groups(pool, files):
            if isinstance(group, UnreadPhoto):
                results.skip(group)
                reporter.advance()
                continue
            for photo, seen in zip(group, see(group), strict=True):
                drawing.append((photo.index, pool.submit(draw, photo, seen)))
            finish(reader.batch_size + 2 * reader.threads)
        finish(0)
    finally:
        # What is being drawn is finished, so that no half folder stays behind.
        pool.shutdown(wait=True, cancel_futures=True)
        for index, future in drawing:
            if future.done() and not future.cancelled() and not future.exception():
                keep(index, future.result())
    reporter.finish()
