"""The inputs of `dino pca` drawn: photos in groups, videos frame by frame."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dino_cli.data.decoding.decode import UnreadableImage
from dino_cli.data.listing.image_list import ImageFile
from dino_cli.progress import Reporter
from dino_cli.store.pages import Picture, picture
from dino_cli.store.pictures.attention import npy
from dino_cli.store.pictures.figures import png, shrunk
from dino_cli.store.pictures.pca import beside, colour_picture
from dino_cli.store.pictures.videos import named_videos
from dino_cli.tasks.pca.features import FittedColours, PatchFeatures, extract_patches, fit
from dino_cli.tasks.pca.fitting import JointFit, fit_jointly, fit_video
from dino_cli.tasks.pca.plan import PcaPlan
from dino_cli.tasks.photos.frames import EvenFrames, check_frames, read_batches
from dino_cli.tasks.photos.pipeline import draw_photos
from dino_cli.tasks.photos.reading import LoadedPhoto, unread
from dino_cli.tasks.photos.results import SIDE, Results

__all__ = ["Drawings"]

MOST_PAIRS = 40  # photos on the contact sheet
MOST_STILLS = 4  # frames of a video on the page

Pixels = NDArray[np.uint8]
Pair = tuple[Pixels, Pixels]  # a photo and its colours, small
Views = list[tuple[str, tuple[Picture, Picture]]]  # of a card, with captions


@dataclass(frozen=True)
class ColouredPhoto:
    """colours: uint8 (H, W, 3), of the size of the view; places: the patches' coordinates, float32
    (h, w, 3); facts: for the row, the foreground among them as a share of the patches."""

    colours: Pixels
    places: NDArray[np.float32]
    facts: dict[str, Any]


class Drawings:
    """Photos first, then videos. joint: the colours that all share; pairs: for the contact sheet,
    by number."""

    def __init__(self, plan: PcaPlan, results: Results, photos: int, reporter: Reporter) -> None:
        self.plan, self.results, self.reporter = plan, results, reporter
        self.photos, self.videos = results.inputs[:photos], results.inputs[photos:]
        self.joint: JointFit | None = None
        self.pairs: dict[int, Pair] = {}

    def run(self) -> None:
        """Fit the colours, draw the photos, draw the videos."""
        with ThreadPoolExecutor(self.plan.reader.threads) as pool:
            if not self.plan.config.each:
                self.joint = fit_jointly(self.plan, pool, self.photos, self.videos, self.reporter)
            if self.photos:
                self._draw_photos()
            for number, file in enumerate(self.videos, len(self.photos)):
                try:
                    self._draw_video(pool, number, file)
                except (UnreadableImage, ValueError) as error:
                    self.results.skip(unread(number, error))

    def _draw_photos(self) -> None:
        known = self.joint.known if self.joint is not None else {}
        colours = self.joint.colours if self.joint is not None else None

        def see(group: Sequence[LoadedPhoto]) -> list[PatchFeatures]:
            new = [photo for photo in group if photo.index not in known]
            seen = iter(extract_patches(self.plan, new) if new else [])
            return [known[one.index] if one.index in known else next(seen) for one in group]

        def write(photo: LoadedPhoto, seen: PatchFeatures) -> tuple[dict[str, Any], Pair, Views]:
            drawn = self._colour(photo, seen, colours)
            files = {
                "pca.npy": npy(drawn.places),
                "pca.png": png(drawn.colours),
                "beside.png": png(beside(photo.view, drawn.colours)),
            }
            self.results.write(photo.index, files)
            pair, wanted = _small(photo, drawn), self.results.wants_card(photo.index)
            return drawn.facts, pair, [("photo", _shown(pair, "photo"))] if wanted else []

        def keep(number: int, made: tuple[dict[str, Any], Pair, Views]) -> None:
            facts, pair, views = made
            if number < MOST_PAIRS:
                self.pairs[number] = pair
            self.results.done(number, facts, self.photos[number].relative.as_posix(), views)

        self.reporter.stage("colours", len(self.photos))
        draw_photos(self.plan.reader, self.photos, see, write, keep, self.results, self.reporter)

    def _draw_video(self, pool: ThreadPoolExecutor, number: int, file: ImageFile) -> None:
        """`pca.mp4` and `beside.mp4`, whole or not at all; three batches of frames in memory."""
        joint = self.joint
        colours = joint.colours if joint else fit_video(self.plan, pool, file, self.reporter)
        frames = self.plan.clips.open(file)
        self.reporter.stage(f"colours, {file.path.name}", frames.count or None, "frames")
        most = MOST_STILLS if self.results.wants_card(number) else 0
        stills: EvenFrames[tuple[Picture, Picture]] = EvenFrames(most, frames.fps)
        shares: list[float] = []
        with ExitStack() as stack:
            stack.callback(frames.close)
            folder = stack.enter_context(self.results.writing(number))
            write = stack.enter_context(named_videos(folder, frames.fps))
            for batch in stack.enter_context(read_batches(self.plan.reader, frames, pool)):
                for photo, seen in zip(batch, extract_patches(self.plan, batch), strict=True):
                    drawn = self._colour(photo, seen, colours)
                    write("pca", drawn.colours)
                    write("beside", beside(photo.view, drawn.colours))
                    if stills.wants(len(shares)):
                        stills.add(len(shares), _shown(_small(photo, drawn), "frame"))
                    shares.append(drawn.facts["foreground"])
                self.reporter.advance(len(batch))
            strict = self.plan.config.strict
            unread = check_frames(frames, len(shares), self.reporter, strict=strict)
        facts = {
            **drawn.facts,
            "foreground": round(sum(shares) / len(shares), 4),
            "frames": len(shares),
            "fps": round(frames.fps, 4),
        }
        self.results.done(number, facts, file.relative.as_posix(), stills.views(), unread)
        self.reporter.finish()

    def _colour(
        self, photo: LoadedPhoto, seen: PatchFeatures, colours: FittedColours | None
    ) -> ColouredPhoto:
        """A photo in these colours, or in those that fit it best by itself."""
        fitted = colours or fit([seen], foreground=self.plan.config.foreground)
        shape = (*seen.grid, 3)
        inside = fitted.inside(seen).reshape(seen.grid).numpy()
        levels = fitted.components.colours(seen.features).reshape(shape).numpy()
        places = fitted.components.project(seen.features).reshape(shape).numpy()
        layout = photo.layout.at((photo.view.shape[0], photo.view.shape[1]))
        facts = {
            "size": list(photo.layout.photo),
            "grid": list(photo.layout.grid),
            "foreground": round(float(inside.mean()), 4),
        }
        return ColouredPhoto(colour_picture(levels, inside, layout), places, facts)


def _small(photo: LoadedPhoto, drawn: ColouredPhoto) -> Pair:
    return shrunk(photo.view, SIDE), shrunk(drawn.colours, SIDE)


def _shown(pair: Pair, what: str) -> tuple[Picture, Picture]:
    """A photo and its colours, for the page."""
    photo, colours = pair
    return picture(photo, f"the {what}"), picture(colours, "its patches, coloured by what they are")
