"""Photos and their label maps (VOC's `SegmentationObject`, or black and white masks)."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath

from dino_cli.config.eval_segmentation import EvalSegmentationConfig
from dino_cli.core.evaluation.overlaps import Objects, objects_of
from dino_cli.data.decoding.decode import UnreadableImage
from dino_cli.data.decoding.labelmaps import read_label_map, resize_labels
from dino_cli.data.listing.image_list import ImageFile
from dino_cli.data.listing.images import find_images
from dino_cli.errors import TaskError
from dino_cli.progress import Reporter
from dino_cli.tasks.photos.reading import LoadedPhoto

__all__ = ["LabelledPhoto", "find_pairs", "objects_in"]

ASPECT = 0.02  # by how much the shapes of a photo and its label map may differ


@dataclass(frozen=True)
class LabelledPhoto:
    """A photo and its label map."""

    image: ImageFile
    labels: Path


def find_pairs(config: EvalSegmentationConfig, reporter: Reporter) -> list[LabelledPhoto]:
    """Photos that have a label map of the same name, in order. Raises `TaskError` for none."""
    images: Sequence[ImageFile] = find_images([str(config.images)], reporter=reporter)
    maps = find_images([str(config.masks)])
    if config.names is not None:
        wanted = _names(config.names)
        images = [image for image in images if image.relative.stem in wanted]
    by_place = {_place(one.relative): one.path for one in maps}
    stems = Counter(one.relative.stem for one in maps)
    by_stem = {one.relative.stem: one.path for one in maps if stems[one.relative.stem] == 1}
    pairs = []
    for image in images:
        found = by_place.get(_place(image.relative)) or by_stem.get(image.relative.stem)
        if found is not None:
            pairs.append(LabelledPhoto(image, found))
    if not pairs:
        missing = images[0].relative.stem if images else "the listed names"
        raise TaskError(
            f"no photo of {str(config.images)!r} has a label map in {str(config.masks)!r}"
            f" (looked for {missing!r})",
            "name label maps as their photos, whatever the suffix",
        )
    if len(pairs) < len(images):
        reporter.remark(
            f"{len(images) - len(pairs)} of {len(images)} photos have no label map; left out"
        )
    return pairs


def _place(path: PurePath) -> PurePath:
    return path.with_suffix("")


def _names(path: Path) -> set[str]:
    """Names as they stand in the lines and without a suffix: a dot or a space may be of a name."""
    try:
        lines = path.read_text(encoding="utf-8-sig", errors="surrogateescape").splitlines()
    except OSError as error:
        raise TaskError(f"cannot read {str(path)!r}: {error.strerror}", "check the path") from None
    said = {text for line in lines if line.strip() for text in (line.strip(), line.split()[0])}
    return said | {Path(text).stem for text in said}


def objects_in(path: Path, photo: LoadedPhoto) -> Objects | str:
    """The objects at the size of the resized photo, or why there are none."""
    try:
        labels = read_label_map(path)
    except UnreadableImage as error:
        return error.reason
    (rows, columns), (height, width) = labels.shape, photo.layout.photo
    if abs(rows * width / (columns * height) - 1) > ASPECT:
        return f"{columns} x {rows} pixels, but the photo has {width} x {height}"
    return objects_of(resize_labels(labels, photo.layout.resized))
