"""Classify by weighted nearest neighbours over exported features (paper, appendix F.1)."""

import math
from collections.abc import Callable, Iterator, Sequence, Set
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dino_cli.config.knn import KnnConfig
from dino_cli.core.neighbors import nearest, votes
from dino_cli.errors import TaskError, UsageError
from dino_cli.progress import Reporter
from dino_cli.runtime import choose_device
from dino_cli.store.embeddings import Embeddings, read_embeddings
from dino_cli.store.tables import check_targets, csv_table, skipped_path, told, write_skipped
from dino_cli.tasks.embed import nothing_read
from dino_cli.tasks.knn.queries import Queries, open_queries

__all__ = ["knn"]

PREDICTING_K = 20  # "20 usually works best" (the original's help)


def knn(config: KnnConfig, reporter: Reporter, *, given: Set[str] = frozenset()) -> dict[str, Any]:
    """Predict a class for every query; compare with the queries' own labels where these are known.

    given: names of the options that the person typed; the model is the index's unless they name
    one. Returns `{"k": {"20": {"top1": percent, "top5": percent}}, "queries": N, "index": M}`.
    Without known labels `k` is empty, and without an output `predictions` lists what was found.
    """
    check(config)
    bank = open_bank(config.index, reporter)
    own = not config.queries
    votes_left = int(bank.voting.sum()) - own
    if votes_left < 1:
        raise TaskError(
            f"the index {str(config.index)!r} has a single image with a label",
            "leave-one-out needs two: embed more, or name queries",
        )
    ks = clamp(config.k, votes_left, own, reporter)
    predicting = ks[0] if "k" in given else min(PREDICTING_K, votes_left)
    named = min(config.neighbors, votes_left)

    queries = open_queries(config, bank.index, reporter, given)
    scored = any(label in bank.numbers for label in queries.labels)
    score = Score(bank, ks, config.temperature)
    predictions: list[list[object]] = []
    count = 0
    with predictions_file(config.output, named) as write:
        for found in search(queries, bank, max(*ks, predicting, named), config, reporter):
            count += len(found.paths)
            score.add(found)
            if write or not scored:
                for row in predict(found, bank, predicting, named, config.temperature):
                    (write or predictions.append)(row)
        if not count:
            raise nothing_read(queries.skipped)
        if config.output is not None:
            write_skipped(config.output, queries.skipped)

    if scored and score.unknown:
        reporter.remark(
            f"{score.unknown} of the {count} queries have labels that are no classes of the index;"
            " the accuracies leave them out"
        )
    result: dict[str, Any] = {
        "k": score.percent(),
        "queries": count,
        "index": int(bank.voting.sum()),
    }
    if queries.skipped:
        result["skipped"] = len(queries.skipped)
        if config.output is None:
            path, reason = queries.skipped[0]
            more = len(queries.skipped) - 1
            others = f", and {more} more" if more else ""
            reporter.remark(f"skipped {path!r}: {reason}{others}")
    if config.output is not None:
        result["output"] = str(config.output)
    elif not scored:
        keys = ("path", "predicted", "probability")
        result["predictions"] = [dict(zip(keys, row[:3], strict=True)) for row in predictions]
    return result


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
    if config.output is not None:
        if config.output.suffix != ".csv":
            raise UsageError(
                f"predictions are .csv, which {str(config.output)!r} is not",
                "use --output predictions.csv",
            )
        targets = [config.output, skipped_path(config.output)]
        check_targets(targets, overwrite=config.overwrite)
        if config.output.resolve() == config.index.with_suffix(".csv").resolve():
            raise UsageError(f"{str(config.output)!r} belongs to the index", "name another file")


@dataclass(frozen=True)
class Bank:
    """The labelled index. labels: class numbers, int64 (M,), -1 without; voting: bool (M,)."""

    index: Embeddings
    classes: list[str]
    numbers: dict[str, int]
    labels: Tensor
    voting: np.ndarray[Any, np.dtype[np.bool_]]


def open_bank(path: Path, reporter: Reporter) -> Bank:
    """Read an index. Raises `TaskError` when nothing in it has a label."""
    index = read_embeddings(path)
    classes = sorted({label for label in index.labels if label})
    if not classes:
        raise TaskError(
            f"the index {str(path)!r} has no labels",
            "embed a folder that has one folder per class, or a .txt list with labels",
        )
    numbers = {name: i for i, name in enumerate(classes)}
    labels = torch.tensor([numbers.get(label, -1) for label in index.labels])
    voting = (labels >= 0).numpy()
    if not voting.all():
        reporter.remark(
            f"{int((~voting).sum())} of the {len(voting)} images of the index have no label"
            " and do not vote"
        )
    return Bank(index, classes, numbers, labels, voting)


def clamp(ks: Sequence[int], available: int, own: bool, reporter: Reporter) -> list[int]:
    """Each k at most the images there are, without repetitions."""
    images = "image" if available == 1 else "images"
    for k in ks:
        if k > available:
            reporter.remark(
                f"k={k} but the index has {available}{' other' if own else ''} {images};"
                f" using {available}"
            )
    return list(dict.fromkeys(min(k, available) for k in ks))


@dataclass(frozen=True)
class Found:
    """A block of q queries: neighbours' similarities (q, K) and rows (q, K), nearest first."""

    paths: list[str]
    labels: list[str]
    similarities: Tensor
    rows: Tensor


def search(
    queries: Queries, bank: Bank, k: int, config: KnnConfig, reporter: Reporter
) -> Iterator[Found]:
    """The k nearest labelled images of the index for every query, block by block."""
    device = choose_device(config.device)
    staged = not queries.pictures  # embedding pictures has a stage of its own
    if staged:
        reporter.stage("searching", len(queries.paths), "queries")
    for features, which in queries.chunks:
        start = 0
        for similarities, rows in nearest(
            features,
            bank.index.features,
            k,
            leave_one_out=queries.own,
            allowed=None if bank.voting.all() else bank.voting,
            device="cpu" if device.type == "mps" else device,
        ):
            block = which[start : start + len(rows)]
            start += len(rows)
            yield Found(
                [queries.paths[i] for i in block],
                [queries.labels[i] for i in block],
                similarities,
                rows,
            )
            if staged:
                reporter.advance(len(rows))
    if staged:
        reporter.finish()


class Score:
    """Top-1 and top-5 hits for each k, over the queries whose label is a class of the index."""

    def __init__(self, bank: Bank, ks: Sequence[int], temperature: float) -> None:
        self.bank, self.temperature = bank, temperature
        self.hits = {k: [0, 0] for k in ks}
        self.judged = self.unknown = 0

    def add(self, found: Found) -> None:
        numbers = self.bank.numbers
        targets = torch.tensor([numbers.get(label, -1) for label in found.labels])[:, None]
        self.unknown += sum(1 for label in found.labels if label and label not in numbers)
        known = int((targets >= 0).sum())
        if not known:
            return
        self.judged += known
        for k, hits in self.hits.items():
            order, _ = vote(found, self.bank, k, self.temperature)
            right = order == targets
            hits[0] += int(right[:, :1].sum())
            hits[1] += int(right[:, : min(5, k)].sum())  # with fewer votes than 5, as the original

    def percent(self) -> dict[str, dict[str, float]]:
        if not self.judged:
            return {}
        return {
            str(k): {"top1": 100 * top1 / self.judged, "top5": 100 * top5 / self.judged}
            for k, (top1, top5) in self.hits.items()
        }


def vote(found: Found, bank: Bank, k: int, temperature: float) -> tuple[Tensor, Tensor]:
    labels = bank.labels[found.rows[:, :k]]
    return votes(found.similarities[:, :k], labels, len(bank.classes), temperature)


def predict(
    found: Found, bank: Bank, k: int, named: int, temperature: float
) -> Iterator[list[object]]:
    """Rows of the predictions: path, predicted, probability, label, then neighbours."""
    order, shares = vote(found, bank, k, temperature)
    for i, path in enumerate(found.paths):
        best = bank.classes[int(order[i, 0])]
        row: list[object] = [path, best, rounded(shares[i, 0]), found.labels[i]]
        for j in range(named):
            row += [bank.index.paths[int(found.rows[i, j])], rounded(found.similarities[i, j])]
        yield row


def rounded(value: Tensor) -> float:
    """float32 carries about six digits; more would pretend."""
    return float(f"{float(value):.6g}")


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
    with told(output), csv_table(output, header) as write:
        yield write
