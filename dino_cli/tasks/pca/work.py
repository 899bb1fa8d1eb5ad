"""The inputs of `dino pca` on their way: some are looked at to fit the colours, then all drawn."""

from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing
from itertools import islice
from pathlib import Path, PurePath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dino_cli.config.pca import PcaConfig
from dino_cli.config.shared import Preprocessing
from dino_cli.data.decoding.decode import UnreadableImage
from dino_cli.data.decoding.video import open_video
from dino_cli.data.listing.images import ImageFile
from dino_cli.progress import Reporter
from dino_cli.runtime import available_cores
from dino_cli.store.pages import picture
from dino_cli.store.pictures.attention import npy
from dino_cli.store.pictures.figures import png, shrunk
from dino_cli.store.pictures.pca import beside, colour_picture
from dino_cli.store.pictures.videos import VideoWriter, video_writer
from dino_cli.store.writing.folders import ResultFolders
from dino_cli.tasks.attention.photos import LoadedPhoto, UnreadPhoto, photo_groups, photo_of
from dino_cli.tasks.model import Model
from dino_cli.tasks.pca.features import FittedColours, PatchFeatures, extract_patches, fit
from dino_cli.tasks.unreadable import cannot_read

__all__ = ["PcaWork"]

MOST_PAIRS = 40  # photos on the contact sheet
MOST_CARDS = 400  # inputs on the page
SIDE = 360  # pixels of a picture on the page

Pixels = NDArray[np.uint8]


class PcaWork:
    """Photos first, then videos.

    rows, cards, pairs: of what is done, by place; unread: paths and reasons of the rest.
    """

    def __init__(
        self,
        config: PcaConfig,
        model: Model,
        p: Preprocessing,
        pictures: Sequence[ImageFile],
        videos: Sequence[ImageFile],
        names: Sequence[PurePath],
        results: ResultFolders,
        reporter: Reporter,
    ) -> None:
        self.config, self.model, self.p, self.reporter = config, model, p, reporter
        self.pictures, self.videos, self.names, self.results = pictures, videos, names, results
        self.rows: dict[int, dict[str, Any]] = {}
        self.cards: dict[int, dict[str, Any]] = {}
        self.pairs: dict[int, tuple[Pixels, Pixels]] = {}
        self.unread: dict[int, tuple[str, str]] = {}
        self.fit: FittedColours | None = None
        self.fitted_on = 0
        self.known: dict[int, PatchFeatures] = {}  # of photos that the fit looked at
        self.threads = max(1, min(config.workers, available_cores()))

    def run(self) -> None:
        with ThreadPoolExecutor(self.threads) as pool:
            if not self.config.each:
                self._fit(pool)
            self._draw_photos(pool)
            for number, file in enumerate(self.videos, len(self.pictures)):
                try:
                    self._draw_video(number, file)
                except (UnreadableImage, ValueError) as error:
                    self._skip(number, file.path, getattr(error, "reason", str(error)))

    # Fitting

    def _fit(self, pool: ThreadPoolExecutor) -> None:
        """The joint colours, of photos and frames evenly among all."""
        counts = [self._frame_count(file) for file in self.videos]
        apart = max(1, -(-(len(self.pictures) + sum(counts)) // self.config.fit))
        chosen = range(0, len(self.pictures), apart)
        self.reporter.stage("fitting colours", len(chosen) + sum(-(-c // apart) for c in counts))
        for index, one in self._see_photos(pool, [self.pictures[i] for i in chosen]):
            self.known[chosen[index]] = one
            self.reporter.advance()
        frames = []
        for file in self.videos:
            frames += self._sample(file, apart)
        self.reporter.finish()
        seen = [*self.known.values(), *frames]
        if not seen:  # the chosen ones could not be read; any will do
            seen = [one for _, one in islice(self._see_photos(pool, self.pictures), 1)]
        if seen:
            self.fit, self.fitted_on = fit(seen, foreground=self.config.foreground), len(seen)

    def _see_photos(
        self, pool: ThreadPoolExecutor, files: Sequence[ImageFile]
    ) -> Iterator[tuple[int, PatchFeatures]]:
        for group in self._groups(pool, files):
            if not isinstance(group, UnreadPhoto):
                seen = extract_patches(self.model, group, self.p, self.config)
                yield from zip((photo.index for photo in group), seen, strict=True)

    def _sample(self, file: ImageFile, apart: int) -> list[PatchFeatures]:
        try:
            frames = open_video(file.path, self.config.fps)
        except UnreadableImage:
            return []  # told when it is its turn
        seen: list[PatchFeatures] = []
        with closing(frames):
            some = islice(iter(frames), 0, None, apart)
            while batch := self._batch(some):
                seen += extract_patches(self.model, batch, self.p, self.config)
                self.reporter.advance(len(batch))
        return seen

    def _frame_count(self, file: ImageFile) -> int:
        try:
            frames = open_video(file.path, self.config.fps)
        except UnreadableImage:
            return 0
        frames.close()
        return frames.count or self.config.fit

    # Drawing

    def _draw_photos(self, pool: ThreadPoolExecutor) -> None:
        if not self.pictures:
            return
        self.reporter.stage("colours", len(self.pictures))
        for group in self._groups(pool, self.pictures):
            if isinstance(group, UnreadPhoto):
                self._skip(group.index, self.pictures[group.index].path, group.reason)
                self.reporter.advance()
                continue
            new = [photo for photo in group if photo.index not in self.known]
            seen = extract_patches(self.model, new, self.p, self.config) if new else []
            found = dict(zip((photo.index for photo in new), seen, strict=True))
            work = [pool.submit(self._draw_photo, photo, found.get(photo.index)) for photo in group]
            for future in work:
                future.result()
                self.reporter.advance()
        self.reporter.finish()

    def _draw_photo(self, photo: LoadedPhoto, seen: PatchFeatures | None) -> None:
        one = seen if seen is not None else self.known[photo.index]
        file = self.pictures[photo.index]
        colours, inside, places = self._colours(one, self.fit)
        picture = colour_picture(colours, inside, photo.layout.at(_size(photo.view)))
        files = {
            "pca.npy": npy(places),
            "pca.png": png(picture),
            "beside.png": png(beside(photo.view, picture)),
        }
        folder = self.results.write(self.names[photo.index], files)
        if photo.index < MOST_PAIRS:
            self.pairs[photo.index] = shrunk(photo.view, SIDE), shrunk(picture, SIDE)
        row = {
            "input": str(file.path),
            "folder": str(folder),
            "size": list(photo.layout.photo),
            "grid": list(photo.layout.grid),
            "foreground": round(float(inside.mean()), 4),
        }
        self._card(photo.index, file, row, [("photo", photo.view, picture)])
        self.rows[photo.index] = row

    def _draw_video(self, number: int, file: ImageFile) -> None:
        """`pca.mp4` and `beside.mp4`, whole or not at all; three batches of frames in memory."""
        mine, count, share = self.fit, 0, 0.0
        if mine is None:
            apart = max(1, -(-self._frame_count(file) // self.config.fit))
            sample = self._sample(file, apart)
            if sample:
                mine = fit(sample, foreground=self.config.foreground)
        views: list[tuple[str, Pixels, Pixels]] = []
        photo: LoadedPhoto | None = None
        frames = open_video(file.path, self.config.fps)
        self.reporter.stage(f"colours, {file.path.name}", frames.count or None, "frames")
        with self.results.writing(self.names[number]) as folder, ExitStack() as stack:
            stack.callback(frames.close)
            source = iter(frames)
            writers: list[VideoWriter] = []
            for batch in _ahead(lambda: self._batch(source), stack):
                for photo, one in zip(
                    batch, extract_patches(self.model, batch, self.p, self.config), strict=True
                ):
                    colours, inside, _ = self._colours(one, mine)
                    picture = colour_picture(colours, inside, photo.layout.at(_size(photo.view)))
                    both = picture, beside(photo.view, picture)
                    if not writers:
                        writers = [
                            stack.enter_context(
                                video_writer(folder / f"{name}.mp4", _size(pixels), frames.fps)
                            )
                            for name, pixels in zip(("pca", "beside"), both, strict=True)
                        ]
                    for writer, pixels in zip(writers, both, strict=True):
                        writer.write(pixels)
                    if count % max(1, frames.count // 4) == 0 and len(views) < 4:
                        views.append(
                            (
                                f"{count / frames.fps:.1f} s",
                                shrunk(photo.view, SIDE),
                                shrunk(picture, SIDE),
                            )
                        )
                    share += float(inside.mean())
                    count += 1
                self.reporter.advance(len(batch))
            if photo is None:
                raise UnreadableImage("no frame in it could be read")
        self.reporter.finish()
        row = {
            "input": str(file.path),
            "folder": str(self.results.root / self.names[number]),
            "size": list(photo.layout.photo),
            "grid": list(photo.layout.grid),
            "foreground": round(share / count, 4),
            "frames": count,
            "fps": round(frames.fps, 4),
        }
        self._card(number, file, row, views)
        self.rows[number] = row

    def _colours(
        self, one: PatchFeatures, mine: FittedColours | None
    ) -> tuple[NDArray[np.float32], NDArray[np.bool_], NDArray[np.float32]]:
        """Colours (h, w, 3), foreground (h, w) and coordinates (h, w, 3) of a photo."""
        mine = mine or fit([one], foreground=self.config.foreground)
        components, shape = mine.components, (*one.grid, 3)
        inside = mine.inside(one).reshape(one.grid).numpy()
        colours = components.colours(one.features).reshape(shape).numpy()
        return colours, inside, components.project(one.features).reshape(shape).numpy()

    def _card(
        self,
        number: int,
        file: ImageFile,
        row: dict[str, Any],
        views: Sequence[tuple[str, Pixels, Pixels]],
    ) -> None:
        if self.config.html and number < MOST_CARDS:
            self.cards[number] = {
                "name": file.relative.as_posix(),
                "row": row,
                "views": [
                    (
                        caption,
                        picture(shrunk(photo, SIDE), f"the {caption}"),
                        picture(shrunk(colours, SIDE), "its patches, coloured by what they are"),
                    )
                    for caption, photo, colours in views
                ],
            }

    # Reading

    def _groups(
        self, pool: ThreadPoolExecutor, files: Sequence[ImageFile]
    ) -> Iterator[list[LoadedPhoto] | UnreadPhoto]:
        return photo_groups(
            pool,
            files,
            self.p,
            self.model.backbone.patch_size,
            size=self.config.batch_size,
            ahead=2 * self.threads,
        )

    def _batch(self, frames: Iterator[Pixels]) -> list[LoadedPhoto]:
        patch = self.model.backbone.patch_size
        some = islice(frames, self.config.batch_size)
        return [photo_of(0, frame, self.p, patch, None) for frame in some]

    def _skip(self, number: int, path: Path, reason: str) -> None:
        if self.config.strict:
            raise cannot_read(str(path), reason)
        self.unread[number] = (str(path), reason)


def _ahead(read: Any, stack: ExitStack) -> Iterator[list[LoadedPhoto]]:
    """Batches until an empty one; the next is read while this one is used."""
    lane = stack.enter_context(ThreadPoolExecutor(1))
    reading: Future[list[LoadedPhoto]] = lane.submit(read)
    while batch := reading.result():
        reading = lane.submit(read)
        yield batch


def _size(pixels: Pixels) -> tuple[int, int]:
    return pixels.shape[0], pixels.shape[1]
