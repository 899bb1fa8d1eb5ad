"""`dino eval retrieval`: landmarks as in revisited Oxford and Paris, or any folder with classes."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import PurePath
from typing import Any

import torch
from torch import Tensor

from dino_cli.config.eval_retrieval import EvalRetrievalConfig
from dino_cli.config.ranges import check_positive
from dino_cli.config.values import counted
from dino_cli.core.network.features import Extractor
from dino_cli.data.decoding.pixel_limit import within_pixel_limit
from dino_cli.data.listing.image_list import ImageFile
from dino_cli.data.listing.images import find_images
from dino_cli.data.preprocess import thumbnail_transform
from dino_cli.errors import TaskError, UsageError
from dino_cli.progress import Reporter
from dino_cli.store.benchmarks.ground_truth import (
    GroundTruth,
    find_ground_truth,
    image_paths,
    read_ground_truth,
)
from dino_cli.store.writing.tables import csv_table
from dino_cli.tasks.eval.descriptors import DescriptorBatch, described, described_all
from dino_cli.tasks.eval.report import Table, check_report, report, write_report
from dino_cli.tasks.eval.retrieval.examples import choose_examples, examples
from dino_cli.tasks.eval.retrieval.ranking import (
    DIFFICULTIES,
    KS,
    TableRows,
    rank_classes,
    rank_landmarks,
)
from dino_cli.tasks.model import Model, open_model
from dino_cli.tasks.unreadable import cannot_read, tell_skipped

__all__ = ["examples", "figures", "retrieval", "tables"]

QUERIES = "queries.csv"


@within_pixel_limit
def retrieval(config: EvalRetrievalConfig, reporter: Reporter) -> dict[str, Any]:
    """Rank all images for every query, and measure the rankings.

    With ground truth of landmarks returns `{"easy" | "medium" | "hard": {"map", "mp@1", "mp@5",
    "mp@10"}}`, as fractions; None where no query has positives. In a folder with classes every
    image is a query among the others, and its class are its positives: `{"map", "recall@1",
    "recall@5", "recall@10"}`, recall being the share of queries with a positive so early. Both
    with `examples`: `{"path", "average_precision", "nearest": [{"path", "relevant"}]}`.
    """
    _check(config)
    found = find_ground_truth(config.root)
    if found is None and (config.root / "jpg").is_dir():
        raise TaskError(
            f"{str(config.root)!r} holds jpg, but no gnd_*.json or gnd_*.pkl beside it",
            "put the benchmark's ground truth there",
        )
    if found is not None:
        result, rows = _landmarks(read_ground_truth(found), config, reporter)
    else:
        result, rows = _classes(config, reporter)
    if config.output is not None:
        result["output"] = str(config.output)
        with report(config.output, [QUERIES]) as stage:
            with csv_table(stage / QUERIES, [str(name) for name in rows[0]]) as write:
                for row in rows[1:]:
                    write(row)
            shown = examples(config, result, reporter)
            write_report(stage, "retrieval", result, figures(result), tables(result), shown)
    return result


def _check(config: EvalRetrievalConfig) -> None:
    check_positive("--image-size", config.image_size, 224)
    check_report(config.output, [QUERIES], overwrite=config.overwrite)
    if not config.root.is_dir():
        raise TaskError(f"{str(config.root)!r} is not a folder", "name the folder of a data set")


def _landmarks(
    truth: GroundTruth, config: EvalRetrievalConfig, reporter: Reporter
) -> tuple[dict[str, Any], TableRows]:
    images, queries = (
        [
            ImageFile(path, "", PurePath(path.name))
            for path in image_paths(config.root / "jpg", names)
        ]
        for names in (truth.images, truth.queries)
    )
    model = open_model(config, reporter)
    asked, known = (
        described_all(files, _described(files, model, config, reporter, stage))
        for files, stage in ((queries, "embedding queries"), (images, "embedding images"))
    )
    result, rows, rankings = rank_landmarks(truth, asked, known)
    result["examples"] = choose_examples(rankings, *(_paths(one) for one in (queries, images)))
    return {**result, **_facts(config, model)}, rows


def _classes(config: EvalRetrievalConfig, reporter: Reporter) -> tuple[dict[str, Any], TableRows]:
    files = find_images([str(config.root)])
    if max(Counter(file.label for file in files if file.label).values(), default=0) < 2:
        raise TaskError(
            f"{str(config.root)!r} has neither ground truth nor two images of one class",
            "put the images of each class into a folder of its name, or gnd_*.json beside jpg",
        )
    model = open_model(config, reporter)
    found, kept, skipped = [], [], []
    for batch in _described(files, model, config, reporter, "embedding images"):
        skipped += [(files[i].path.as_posix(), reason) for i, reason in batch.failures]
        if skipped and config.strict:
            raise cannot_read(*skipped[0])
        if batch.indices:
            found.append(batch.descriptors)
            kept += batch.indices
    tell_skipped(skipped, reporter)
    labels = [files[i].label for i in kept]
    if max(Counter(label for label in labels if label).values(), default=0) < 2:
        raise TaskError(
            f"no two readable images of one class in {str(config.root)!r}", "check the files"
        )
    names = _paths([files[i] for i in kept])
    result, rows, rankings = rank_classes(labels, names, torch.cat(found), reporter)
    result["examples"] = choose_examples(rankings, names, names)
    return {**result, "skipped": len(skipped), **_facts(config, model)}, rows


def _paths(files: Sequence[ImageFile]) -> list[str]:
    return [file.path.as_posix() for file in files]


def _facts(config: EvalRetrievalConfig, model: Model) -> dict[str, Any]:
    return {
        "image_size": config.image_size,
        "multi_scale": config.multi_scale,
        **model.identity,
    }


def _described(
    files: Sequence[ImageFile],
    model: Model,
    config: EvalRetrievalConfig,
    reporter: Reporter,
    stage: str,
) -> Iterator[DescriptorBatch]:
    backbone = model.backbone
    patch_size = backbone.patch_size if backbone.has_blocks else 1
    least = 2 * patch_size if config.multi_scale else patch_size
    if config.image_size < least:
        half = " at half that size" if config.multi_scale else ""
        raise UsageError(
            f"--image-size {config.image_size} leaves no patch of {patch_size} pixels{half}",
            f"use --image-size {least} or more",
        )
    return described(
        files,
        partial(_encode, Extractor(backbone, ("cls",)), config.multi_scale),
        model,
        replace(model.preprocessing, exif=config.exif),
        config,
        reporter,
        stage=stage,
        transform=thumbnail_transform(config.image_size, least),
    )


def _encode(extract: Extractor, multi_scale: bool, images: Tensor) -> Tensor:
    return extract(images, multi_scale=multi_scale)["cls"]


def figures(result: Mapping[str, Any]) -> dict[str, float]:
    """The published columns, or those of a folder with classes; in percent."""
    if "map" in result:
        return {"mAP": 100 * result["map"], "recall@1": 100 * result["recall@1"]}
    shown = {f"{name} mAP": result[name]["map"] for name in ("medium", "hard")}
    return {name: 100 * value for name, value in shown.items() if value is not None}


def tables(result: Mapping[str, Any]) -> list[Table]:
    """One row for each difficulty; or one of a folder with classes."""
    if "map" in result:
        columns = ("map", *(f"recall@{k}" for k in KS))
        title = (
            f"{counted(result['queries'], 'query')}, {counted(result['images'], 'image')},"
            f" {counted(result['classes'], 'class')}"
        )
        return [
            Table(
                title=title,
                columns=("%", "mAP", *columns[1:]),
                rows=[["all", *(_percent(result[name]) for name in columns)]],
                note="Every image asks for the others of its class. Recall: share of queries that"
                " find one of them so early.",
            )
        ]
    names = ("map", *(f"mp@{k}" for k in KS))
    return [
        Table(
            title=f"{counted(result['queries'], 'query')}, {counted(result['images'], 'image')}",
            columns=("%", "mAP", *(f"mP@{k}" for k in KS), "queries"),
            rows=[
                [d, *(_percent(result[d][name]) for name in names), str(result[d]["queries"])]
                for d in DIFFICULTIES
            ],
            note="Medium: easy and hard images are to be found; hard: only the hard ones. What is"
            " ignored leaves the ranking.",
        )
    ]


def _percent(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.1f}"
