"""`dino eval segmentation`: masks from attention against label maps (paper, section 4.2.2)."""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from dino_cli.config.eval_segmentation import EvalSegmentationConfig
from dino_cli.config.ranges import check_batches, check_threshold
from dino_cli.config.setting import parse_size
from dino_cli.config.values import counted
from dino_cli.core.evaluation.overlaps import Objects
from dino_cli.data.decoding.pixel_limit import within_pixel_limit
from dino_cli.errors import TaskError, UsageError
from dino_cli.progress import Reporter
from dino_cli.store.writing.tables import csv_table
from dino_cli.tasks.eval.report import Table, check_report, report, write_report
from dino_cli.tasks.eval.segmentation.examples import choose_examples, examples
from dino_cli.tasks.eval.segmentation.pairs import LabelledPhoto, find_pairs, objects_in
from dino_cli.tasks.eval.segmentation.scores import ImageScore, find_masks, mean_scores, score
from dino_cli.tasks.model import Model, open_model, untrained_twin
from dino_cli.tasks.photos.reading import LoadedPhoto, UnreadPhoto, photo_reader, stacked

__all__ = ["examples", "figures", "segmentation", "tables"]

PER_IMAGE = "per_image.csv"
KINDS = {  # with the option of `dino attention` that makes them
    "best": "best head for each object, by the truth",
    "chosen": "head chosen without truth (--head best)",
    "mean": "mean of the heads (--head mean)",
    "seeded": "patches like the attended ones (--masks seeded)",
    "tokens": "the same of the output (--masks tokens)",
    "cut": "TokenCut (--masks cut)",
    "centre_box": "a centred box of 60 % × 60 %",
    "everything": "the whole image",
}


@within_pixel_limit
def segmentation(config: EvalSegmentationConfig, reporter: Reporter) -> dict[str, Any]:
    """Overlap of masks with objects: the mean over objects, then over images, in fractions.

    Returns {"jaccard": {kind: value}, "guided": {kind: value}, "corloc": {kind: value}, "heads":
    [value of each], "random": {"best", "mean"}, "supervised": …, "images", "objects", "examples":
    [{"path", "labels", "jaccard"}], …}.
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
        "examples": choose_examples(pairs, scores),
    }
    kept = [pairs[i] for i in scores]
    beside = {"random": untrained_twin(model) if config.random else None, "supervised": other}
    for name, network in beside.items():
        if network is not None:
            theirs = _score_all(network, kept, config, reporter, name, everything=False)
            result[name] = mean_scores(list(theirs.scores.values()))["jaccard"]
    if config.output is not None:
        with report(config.output, (PER_IMAGE,)) as stage:
            shown = examples(config, result, reporter, model)
            write_report(stage, "segmentation", result, figures(result), tables(result), shown)
            _write_scores(stage / PER_IMAGE, pairs, scores)
        result["output"] = str(config.output)
    return result


def check(config: EvalSegmentationConfig) -> None:
    """Raises `UsageError` for impossible numbers."""
    check_threshold(config.threshold)
    check_batches(config.batch_size, config.workers)
    parse_size(config.image_size)


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
            truths = pool.map(lambda photo: objects_in(pairs[photo.index].labels, photo), group)
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
        have = counted(done.empty, "label map has", "label maps have")
        reporter.remark(f"{have} no object; left out")


def _write_scores(
    path: Path, pairs: Sequence[LabelledPhoto], scores: Mapping[int, ImageScore]
) -> None:
    """A row for each photo: its overlap by each kind of mask."""
    first = next(iter(scores.values()))
    kinds, guided = list(first.jaccard), list(first.guided)
    header = ("path", "objects", *kinds, *(f"guided_{kind}" for kind in guided))
    with csv_table(path, header) as write:
        for index, one in scores.items():
            values = [one.jaccard[kind] for kind in kinds] + [one.guided[kind] for kind in guided]
            photo = pairs[index].image.path.as_posix()
            write([photo, one.objects, *(f"{value:.6f}" for value in values)])


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
            title=f"{counted(result['objects'], 'object')} in {counted(result['images'], 'image')}",
            columns=columns,
            rows=rows,
            note="Mean over the objects of an image, then over images. In brackets: the option of"
            " dino attention. To edges: the mask fitted by the guided filter (--refine guided)."
            " CorLoc: images where the mask's box fits an object's by half.",
        ),
        Table(
            title="By head",
            columns=("head", "Jaccard %"),
            rows=[[str(i), f"{100 * value:.1f}"] for i, value in enumerate(result["heads"])],
        ),
    ]
    return shown
