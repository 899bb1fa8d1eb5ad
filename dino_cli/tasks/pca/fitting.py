"""Which photos and frames the colours are fitted to, and what the network says of them."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from itertools import islice

from dino_cli.data.decoding.decode import UnreadableImage
from dino_cli.data.listing.image_list import ImageFile
from dino_cli.progress import Reporter
from dino_cli.tasks.pca.features import FittedColours, PatchFeatures, extract_patches, fit
from dino_cli.tasks.pca.plan import PcaPlan
from dino_cli.tasks.photos.frames import read_batches
from dino_cli.tasks.photos.reading import UnreadPhoto

__all__ = ["JointFit", "fit_jointly", "fit_video"]


@dataclass(frozen=True)
class JointFit:
    """Colours of all inputs together. count: photos and frames that they were fitted to; known:
    those photos' features, by number."""

    colours: FittedColours
    count: int
    known: dict[int, PatchFeatures]


def fit_jointly(
    plan: PcaPlan,
    pool: ThreadPoolExecutor,
    pictures: Sequence[ImageFile],
    videos: Sequence[ImageFile],
    reporter: Reporter,
) -> JointFit | None:
    """The joint colours, of `config.fit` photos and frames evenly among all; None without any.

    What cannot be read is left out here, and told when it is its turn to be drawn.
    """
    counts = [_frame_count(plan, file) for file in videos]
    apart = max(1, -(-(len(pictures) + sum(counts)) // plan.config.fit))
    chosen = range(0, len(pictures), apart)
    reporter.stage("fitting colours", len(chosen) + sum(-(-count // apart) for count in counts))
    known: dict[int, PatchFeatures] = {}
    for index, one in _see_photos(plan, pool, [pictures[i] for i in chosen]):
        known[chosen[index]] = one
        reporter.advance()
    frames: list[PatchFeatures] = []
    for file in videos:
        frames += _see_frames(plan, pool, file, apart, reporter)
    reporter.finish()
    seen = [*known.values(), *frames]
    if not seen:  # the chosen ones could not be read; any will do
        seen = [one for _, one in islice(_see_photos(plan, pool, pictures), 1)]
    if not seen:
        return None
    return JointFit(fit(seen, foreground=plan.config.foreground), len(seen), known)


def fit_video(
    plan: PcaPlan, pool: ThreadPoolExecutor, file: ImageFile, reporter: Reporter
) -> FittedColours | None:
    """Colours of one video for itself; None when no frame can be read."""
    apart = max(1, -(-_frame_count(plan, file) // plan.config.fit))
    seen = _see_frames(plan, pool, file, apart, reporter)
    return fit(seen, foreground=plan.config.foreground) if seen else None


def _see_photos(
    plan: PcaPlan, pool: ThreadPoolExecutor, files: Sequence[ImageFile]
) -> Iterator[tuple[int, PatchFeatures]]:
    for group in plan.reader.groups(pool, files):
        if not isinstance(group, UnreadPhoto):
            seen = extract_patches(plan, group)
            yield from zip((photo.index for photo in group), seen, strict=True)


def _see_frames(
    plan: PcaPlan, pool: ThreadPoolExecutor, file: ImageFile, apart: int, reporter: Reporter
) -> list[PatchFeatures]:
    seen: list[PatchFeatures] = []
    try:
        with closing(plan.clips.open(file)) as frames:
            some = islice(frames, 0, None, apart)
            with read_batches(plan.reader, some, pool) as batches:
                for batch in batches:
                    seen += extract_patches(plan, batch)
                    reporter.advance(len(batch))
    except (UnreadableImage, ValueError):
        return []
    return seen


def _frame_count(plan: PcaPlan, file: ImageFile) -> int:
    try:
        with closing(plan.clips.open(file)) as frames:
            return frames.count or plan.config.fit
    except UnreadableImage:
        return 0
