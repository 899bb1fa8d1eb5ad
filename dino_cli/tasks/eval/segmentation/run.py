"""`dino eval segmentation`: masks from attention against label maps (paper, section 4.2.2)."""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePath
from typing import Any

from dino_cli.config.eval_segmentation import EvalSegmentationConfig
from dino_cli.config.ranges import check_batches, check_threshold
from dino_cli.config.setting import parse_size
from dino_cli.core.evaluation.jaccard import Objects, objects_of
from dino_cli.data.decoding.decode import UnreadableImage
from dino_cli.data.decoding.labelmaps import read_label_map, resize_labels
from dino_cli.data.decoding.pixel_limit import within_pixel_limit
from dino_cli.data.listing.images import ImageFile, find_images
from dino_cli.errors import TaskError, UsageError
from dino_cli.progress import Reporter
from dino_cli.store.writing.tables import csv_table
from dino_cli.tasks.eval.report import Table, check_report, report, write_report
from dino_cli.tasks.eval.segmentation.scores import ImageScore, find_masks, mean_scores, score
from dino_cli.tasks.model import Model, open_model, untrained_twin
from dino_cli.tasks.photos.reading import LoadedPhoto, UnreadPhoto, photo_reader, stacked

__all__ = ["figures", "segmentation", "tables"]

PER_IMAGE = "per_image.csv"
ASPECT = 0.02  # by how much the shapes of a photo and its label map may differ
KINDS = {
    "best": "best head for each object, by the truth",
    "chosen": "one head per image, chosen without truth",
    "mean": "mean of the heads",
    "seeded": "patches like the attended ones",
    "cut": "TokenCut",
    "centre_box": "a centred box of 60 % × 60 %",
    "everything": "the whole image",
}


@dataclass(frozen=True)
class LabelledPhoto:
    """A photo and its label map."""

    image: ImageFile
    labels: Path


@within_pixel_limit
def segmentation(config: EvalSegmentationConfig, reporter: Reporter) -> dict[str, Any]:
    """Overlap of masks with objects: the mean over objects, then over images, in fractions.

    Returns {"jaccard": {kind: value}, "guided": {kind: value}, "corloc": {kind: value}, "heads":
    [value of each], "random": {"best", "mean"}, "supervised": …, "images", "objects", …}.
    """
    check(config)
    check_report(config.output, (PER_IMAGE,), overwrite=config.overwrite)
    pairs = find_pairs(config, reporter)
    model = open_model(config, reporter)
    other = _supervised(config, reporter)
    for one in (model, other):
        if one is not None:
            _check_network(one, config)
    done = _score_all(model, pairs, config, reporter, "attention", everything=True)
    _tell(done, reporter)
    scores = done.scores
    result: dict[str, Any] = {
        **mean_scores(list(scores.values())),
        "images": len(scores),
        "objects": sum(one.objects for one in scores.values()),
        "skipped": len(done.skipped),
        "model": model.weights.name,
        "threshold": config.threshold,
        "image_size": config.image_size,
    }
    kept = [pairs[i] for i in scores]
    beside = {"random": untrained_twin(model) if config.random else None, "supervised": other}
    for name, network in beside.items():
        if network is not None:
            theirs = _score_all(network, kept, config, reporter, name, everything=False)
            result[name] = mean_scores(list(theirs.scores.values()))["jaccard"]
    if config.output is not None:
        with report(config.output, (PER_IMAGE,)) as stage:
            _leave(stage, result, pairs, scores)
        result["output"] = str(config.output)
    return result


def check(config: EvalSegmentationConfig) -> None:
    """Raises `UsageError` for impossible numbers."""
    check_threshold(config.threshold)
    check_batches(config.batch_size, config.workers)
    parse_size(config.image_size)


def find_pairs(config: EvalSegmentationConfig, reporter: Reporter) -> list[LabelledPhoto]:
    """Photos that have a label map of the same name, in order. Raises `TaskError` for none."""
    images: Sequence[ImageFile] = find_images([str(config.images)], reporter=reporter)
    maps = find_images([str(config.masks)])
    if config.names is not None:
        wanted = _names(config.names)
        images = [image for image in images if image.relative.stem in wanted]
    by_place = {_place(one.relative): one.path for one in maps}
    stems = [one.relative.stem for one in maps]
    by_stem = {one.relative.stem: one.path for one in maps if stems.count(one.relative.stem) == 1}
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
    try:
        lines = path.read_text(encoding="utf-8-sig", errors="surrogateescape").splitlines()
    except OSError as error:
        raise TaskError(f"cannot read {str(path)!r}: {error.strerror}", "check the path") from None
    return {Path(line.split()[0]).stem for line in lines if line.strip()}


def _supervised(config: EvalSegmentationConfig, reporter: Reporter) -> Model | None:
    if config.supervised is None:
        return None
    path = Path(config.supervised)
    given: dict[str, Any] = (
        {"weights": path} if path.exists() else {"model": config.supervised, "weights": None}
    )
    options = replace(config, arch=None, patch_size=None, heads=None, **given)
    return open_model(options, reporter)


def _check_network(model: Model, config: EvalSegmentationConfig) -> None:
    if not model.backbone.has_attention:
        raise UsageError(
            f"{model.weights.name} has no attention of a class token to its patches",
            "use a ViT, such as --model dino_vits16",
        )
    model.input_size(config.image_size)  # raises for less than a patch, before any photo is read
    if config.compile:
        model.backbone.compile_blocks()


@dataclass
class _Scored:
    """By position of the pair: scores, and why others have none. empty: maps without an object."""

    scores: dict[int, ImageScore] = field(default_factory=dict)
    skipped: dict[int, str] = field(default_factory=dict)
    empty: int = 0


def _score_all(
    model: Model,
    pairs: Sequence[LabelledPhoto],
    config: EvalSegmentationConfig,
    reporter: Reporter,
    stage: str,
    *,
    everything: bool,
) -> _Scored:
    """One pass of a network over all photos, read ahead in threads."""
    reader = photo_reader(model, config)
    p = reader.preprocessing
    guided = everything and config.refine == "guided"
    done = _Scored()
    reporter.stage(stage, len(pairs))
    with ThreadPoolExecutor(reader.threads) as pool:
        for group in reader.groups(pool, [pair.image for pair in pairs]):
            if isinstance(group, UnreadPhoto):
                _skip(done, group.index, pairs[group.index].image.path, group.reason, config)
                reporter.advance()
                continue
            truths = pool.map(lambda photo: _objects(pairs[photo.index].labels, photo), group)
            ready: list[tuple[LoadedPhoto, Objects]] = []
            for photo, truth in zip(group, truths, strict=True):
                if isinstance(truth, str):
                    _skip(done, photo.index, pairs[photo.index].labels, truth, config)
                elif not truth.labels:
                    done.empty += 1
                else:
                    ready.append((photo, truth))
            if ready:
                pixels = stacked([photo for photo, _ in ready])
                looks = find_masks(model, pixels, p, config.threshold, everything=everything)
                for (photo, truth), seen in zip(ready, looks, strict=True):
                    guide = photo.pixels if guided else None
                    done.scores[photo.index] = score(seen, truth, guide, reader.patch_size)
            reporter.advance(len(group))
    reporter.finish()
    done.scores = dict(sorted(done.scores.items()))
    return done


def _skip(
    done: _Scored, index: int, path: Path, reason: str, config: EvalSegmentationConfig
) -> None:
    if config.strict:
        raise TaskError(f"cannot use {str(path)!r}: {reason}", "repair it or leave out --strict")
    done.skipped[index] = f"{path}: {reason}"


def _objects(path: Path, photo: LoadedPhoto) -> Objects | str:
    """The objects at the size of the resized photo, or why there are none."""
    try:
        labels = read_label_map(path)
    except UnreadableImage as error:
        return error.reason
    (rows, columns), (height, width) = labels.shape, photo.layout.photo
    if abs(rows * width / (columns * height) - 1) > ASPECT:
        return f"{columns} x {rows} pixels, but the photo has {width} x {height}"
    return objects_of(resize_labels(labels, photo.layout.resized))


def _tell(done: _Scored, reporter: Reporter) -> None:
    """Raises `TaskError` when nothing could be judged."""
    if not done.scores:
        if done.skipped:
            raise TaskError(f"nothing to judge: {next(iter(done.skipped.values()))}", "check it")
        raise TaskError("no label map has an object", "objects are what is neither 0 nor 255")
    if done.skipped:
        first, more = next(iter(done.skipped.values())), len(done.skipped) - 1
        reporter.remark(f"skipped {first}" + (f", and {more} more" if more else ""))
    if done.empty:
        have = "label map has" if done.empty == 1 else "label maps have"
        reporter.remark(f"{done.empty} {have} no object; left out")


def _leave(
    stage: Path,
    result: Mapping[str, Any],
    pairs: Sequence[LabelledPhoto],
    scores: Mapping[int, ImageScore],
) -> None:
    write_report(stage, "segmentation", result, figures(result), tables(result))
    first = next(iter(scores.values()))
    kinds, guided = list(first.jaccard), list(first.guided)
    header = ("path", "objects", *kinds, *(f"guided_{kind}" for kind in guided))
    with csv_table(stage / PER_IMAGE, header) as write:
        for index, one in scores.items():
            values = [one.jaccard[kind] for kind in kinds] + [one.guided[kind] for kind in guided]
            path = pairs[index].image.path.as_posix()
            write([path, one.objects, *(f"{value:.6f}" for value in values)])


def figures(result: Mapping[str, Any]) -> dict[str, float]:
    """The paper's figure in percent: for each object the head that fits it best."""
    return {"Jaccard": 100 * result["jaccard"]["best"]}


def tables(result: Mapping[str, Any]) -> list[Table]:
    """Every kind of mask with the networks beside it, then the heads."""
    jaccard, guided = result["jaccard"], result.get("guided", {})
    located = result.get("corloc", {})

    def percent(of: Mapping[str, float], kind: str) -> str:
        return f"{100 * of[kind]:.1f}" if kind in of else ""

    columns = ["mask", "Jaccard %", *(["to edges %"] if guided else []), "CorLoc %"]
    rows = []
    for kind, name in KINDS.items():
        row = [name, percent(jaccard, kind)]
        if guided:
            row.append(percent(guided, kind))
        rows.append([*row, percent(located, kind)])
    for beside in ("supervised", "random"):
        for kind in ("best", "mean") if beside in result else ():
            filled = [""] * (len(columns) - 2)
            of = "best head for each object" if kind == "best" else "mean of the heads"
            rows.append([f"{beside} network, {of}", percent(result[beside], kind), *filled])
    shown = [
        Table(
            title=f"{result['objects']} objects in {result['images']} images",
            columns=columns,
            rows=rows,
            note="Mean over the objects of an image, then over images. To edges: the mask fitted"
            " by the guided filter. CorLoc: images where the mask's box fits an object's by half.",
        ),
        Table(
            title="By head",
            columns=("head", "Jaccard %"),
            rows=[[str(i), f"{100 * value:.1f}"] for i, value in enumerate(result["heads"])],
        ),
    ]
    return shown
