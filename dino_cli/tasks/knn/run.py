"""Classify by weighted nearest neighbours over exported features (paper, appendix F.1)."""

import math
import os
from collections.abc import Callable, Iterator, Sequence, Set
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dino_cli.config.knn import KnnConfig
from dino_cli.data.decoding.pixel_limit import within_pixel_limit
from dino_cli.errors import TaskError, UsageError
from dino_cli.progress import Reporter
from dino_cli.store.pictures.confusion import draw_confusion
from dino_cli.store.writing.tables import (
    check_targets,
    csv_table,
    explain_errors,
    skipped_path,
    write_skipped,
)
from dino_cli.tasks.embed import nothing_read
from dino_cli.tasks.knn.bank import Bank, bank_of, open_bank, open_index, unlabelled
from dino_cli.tasks.knn.duplicates import find_duplicates
from dino_cli.tasks.knn.hits import HitsPage
from dino_cli.tasks.knn.queries import open_queries
from dino_cli.tasks.knn.score import AccuracyCounter, ClassScore
from dino_cli.tasks.knn.search import NeighborBlock, clamp, predict, search

__all__ = [
    "AccuracyCounter",
    "Bank",
    "NeighborBlock",
    "check",
    "clamp",
    "knn",
    "open_bank",
    "search",
]

MOST_COMPARED = 1_000_000  # paths of the index that queries are looked for among
PREDICTING_K = 20  # "20 usually works best" (the original's help)


@within_pixel_limit
def knn(config: KnnConfig, reporter: Reporter, *, given: Set[str] = frozenset()) -> dict[str, Any]:
    """Predict a class for every query; compare with the queries' own labels where these are known.

    given: names of the options that the person typed; the model is the index's unless they name
    one. Returns `{"k": {"20": {"top1": percent, "top5": percent}}, "queries": N, "index": M}`.
    Without known labels `k` is empty. `predictions` lists what was found, without an output, where
    no labels are known or only by the folder that was given.
    With `per_class` also `classes`, with `min_similarity` also `rejection`, with faiss `recall`.
    With `duplicates` see `find_duplicates`. An index without labels can be searched for a page.
    """
    check(config)
    if config.duplicates is not None:
        return find_duplicates(config, reporter)
    page = config.output is not None and config.output.suffix == ".html"
    index = open_index(config.index)
    labelled = any(index.labels)
    bank = bank_of(index, reporter) if labelled or not page else unlabelled(index)
    own = not config.queries
    votes_left = int(bank.voting.sum()) - own
    if votes_left < 1:
        raise TaskError(
            f"the index {str(config.index[0])!r} has a single image with a label",
            "leave-one-out needs two: embed more, or name queries",
        )
    # On a page nobody sees the accuracies of the default numbers.
    heard = reporter if not page or "k" in given else Reporter()
    ks = clamp(config.k, votes_left, own, heard) if labelled else []
    predicting = ks[0] if "k" in given and ks else min(PREDICTING_K, votes_left)
    named = min(config.neighbors, votes_left)

    queries = open_queries(config, bank.index, reporter, given)
    if queries.pictures:
        _tell_of_known(queries.paths, bank.index.paths, reporter)
    scored = labelled and any(label in bank.numbers for label in queries.labels)
    listed = config.output is None and not (scored and queries.named)
    score = AccuracyCounter(bank, ks, config.temperature)
    by_class = None
    if labelled and (config.per_class or config.confusion or config.min_similarity is not None):
        by_class = ClassScore(bank, predicting, config.temperature, config.min_similarity)
    hits = HitsPage(bank.index, named, config.exif) if page else None
    predictions: list[list[object]] = []
    facts: dict[str, object] = {}
    count = 0
    most = max(*ks, predicting, named) if ks else max(predicting, named)
    with predictions_file(None if page else config.output, named) as write:
        for found in search(queries, bank, most, config, reporter, facts):
            count += len(found.paths)
            if labelled:
                score.add(found)
            if by_class is not None:
                by_class.add(found)
            rows = predict(
                found, bank, predicting, named, config.temperature, config.min_similarity
            )
            if hits is not None:
                hits.add(found, rows if labelled else None)
            elif write or listed:
                for row in rows:
                    (write or predictions.append)(row)
        if not count:
            raise nothing_read(queries.skipped)
        if hits is not None and config.output is not None:
            hits.write(config.output)
        if config.confusion is not None and by_class is not None:
            with explain_errors(config.confusion):
                draw_confusion(config.confusion, by_class.counts, bank.classes, predicting)
        if config.output is not None:
            write_skipped(config.output, queries.skipped)

    if scored and score.unknown and by_class is None:
        reporter.remark(
            f"{score.unknown} of the {count} queries have labels that are no classes of the index;"
            " the accuracies leave them out"
        )
    result: dict[str, Any] = {
        "k": score.percent(),
        "queries": count,
        "index": int(bank.voting.sum()),
        **facts,
    }
    if by_class is not None:
        if config.per_class:
            result["classes"] = by_class.per_class()
        if config.min_similarity is not None:
            result["rejection"] = by_class.rejection()
        if config.confusion is not None:
            result["confusion"] = str(config.confusion)
    if queries.skipped:
        result["skipped"] = len(queries.skipped)
        if config.output is None:
            path, reason = queries.skipped[0]
            more = len(queries.skipped) - 1
            others = f", and {more} more" if more else ""
            reporter.remark(f"skipped {path!r}: {reason}{others}")
    if config.output is not None:
        result["output"] = str(config.output)
    elif listed:
        keys = ("path", "predicted", "probability")
        result["predictions"] = [
            {key: None if value == "" else value for key, value in zip(keys, row[:3], strict=True)}
            for row in predictions
        ]
    return result


def _tell_of_known(queries: Sequence[str], indexed: Sequence[str], reporter: Reporter) -> None:
    """Queries that the index holds find themselves first, which flatters every figure."""
    asked = {os.path.abspath(path) for path in queries}
    known = sum(os.path.abspath(path) in asked for path in indexed[:MOST_COMPARED])
    if known:
        are = "query is" if len(queries) == 1 else "queries are"
        reporter.remark(
            f"{known} of {len(queries)} {are} in the index and will find themselves; without"
            " queries every image of the index is classified by the others"
        )


def check(config: KnnConfig) -> None:
    """Raises `UsageError` for impossible numbers, `TaskError` for an output that cannot be."""
    for k in config.k:
        if k < 1:
            raise UsageError(f"k={k} is not a positive number", "use -k 20")
    if not config.temperature > 0 or not math.isfinite(config.temperature):
        raise UsageError(
            f"temperature {config.temperature} is not a positive number", "use --temperature 0.07"
        )
    if config.neighbors < 0:
        raise UsageError(f"--neighbors {config.neighbors} is negative", "use --neighbors 5")
    if config.min_similarity is not None and not -1 <= config.min_similarity <= 1:
        raise UsageError(
            f"--min-similarity {config.min_similarity:g} is not a cosine",
            "use --min-similarity 0.5",
        )
    if config.confusion is not None:
        if config.confusion.suffix != ".png":
            raise UsageError(
                f"the confusion matrix is a .png, which {str(config.confusion)!r} is not",
                "use --confusion confusion.png",
            )
        check_targets([config.confusion], overwrite=config.overwrite)
    if config.output is not None:
        if config.output.suffix not in (".csv", ".html"):
            raise UsageError(
                f"predictions are .csv or .html, which {str(config.output)!r} is not",
                "use --output predictions.csv",
            )
        if config.duplicates is not None and config.output.suffix != ".csv":
            raise UsageError(
                f"duplicates are listed as .csv, which {str(config.output)!r} is not",
                "use --output duplicates.csv",
            )
        targets = [config.output, skipped_path(config.output)]
        check_targets(targets, overwrite=config.overwrite)
        for index in config.index:
            if config.output.resolve() in (index.with_suffix(".csv").resolve(), index.resolve()):
                raise UsageError(
                    f"{str(config.output)!r} belongs to the index", "name another file"
                )


@contextmanager
def predictions_file(
    output: Path | None, named: int
) -> Iterator[Callable[[Sequence[object]], None] | None]:
    """A function that writes one row of predictions, or None without an output."""
    if output is None:
        yield None
        return
    header = ["path", "predicted", "probability", "label"]
    for i in range(1, named + 1):
        header += [f"neighbor{i}", f"similarity{i}"]
    with explain_errors(output), csv_table(output, header) as write:
        yield write
