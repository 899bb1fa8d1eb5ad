"""Rankings of all images for every query, measured by their ground truth.

M database images, Q queries, D features.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from dino_cli.core.evaluation.ranking import average_precision, positive_ranks, precision_at
from dino_cli.progress import Reporter
from dino_cli.store.benchmarks.ground_truth import GroundTruth, Relevance

__all__ = ["DIFFICULTIES", "KS", "Ranking", "TableRows", "rank_classes", "rank_landmarks"]

DIFFICULTIES = ("easy", "medium", "hard")
KS = (1, 5, 10)
BLOCK = 256  # queries compared with all images at a time

SHOWN = 5  # images of a ranking that are told one by one

TableRows = list[list[object]]


@dataclass(frozen=True)
class Ranking:
    """The first of one query's ranking. nearest: positions in the database; relevant: whether each
    is a positive, None for what is ignored."""

    query: int
    average_precision: float
    nearest: list[int]
    relevant: list[bool | None]


def rank_landmarks(
    truth: GroundTruth, queries: Tensor, database: Tensor
) -> tuple[dict[str, Any], TableRows, list[Ranking]]:
    """Precision for each difficulty, a table of each query's, the header first, and rankings.

    queries: (Q, D), database: (M, D), of any length. Queries without positives are left out, as by
    the original: the mean is over the others. The rankings are those of medium difficulty.
    """
    similarity = F.normalize(queries, dim=1) @ F.normalize(database, dim=1).T
    order = similarity.argsort(dim=1, descending=True, stable=True)
    rows: TableRows = [["query", *(f"ap_{name}" for name in DIFFICULTIES)]]
    measured: dict[str, list[list[float]]] = {name: [] for name in DIFFICULTIES}
    rankings: list[Ranking] = []
    for number, (one, ranking) in enumerate(zip(truth.truth, order.numpy(), strict=True)):
        row: list[object] = [truth.queries[number]]
        for difficulty in DIFFICULTIES:
            positives, ignored = _lists(one, difficulty)
            if not positives:
                row.append("")
                continue
            ranks = positive_ranks(ranking, positives, ignored)
            precision = average_precision(ranks, len(positives))
            measured[difficulty].append([precision, *(precision_at(k, ranks) for k in KS)])
            row.append(f"{precision:.6g}")
            if difficulty == "medium":
                nearest = ranking[:SHOWN].tolist()
                relevant = [None if i in ignored else i in positives for i in nearest]
                rankings.append(Ranking(number, precision, nearest, relevant))
        rows.append(row)
    names = ("map", *(f"mp@{k}" for k in KS))
    result: dict[str, Any] = {}
    for difficulty, values in measured.items():
        means = np.mean(values, axis=0).tolist() if values else [None] * len(names)
        result[difficulty] = {**dict(zip(names, means, strict=True)), "queries": len(values)}
    return {**result, "queries": len(queries), "images": len(database)}, rows, rankings


def _lists(one: Relevance, difficulty: str) -> tuple[list[int], list[int]]:
    """Positives, and what leaves the ranking."""
    if difficulty == "easy":
        return one.easy, one.junk + one.hard
    if difficulty == "hard":
        return one.hard, one.junk + one.easy
    return one.easy + one.hard, one.junk


def rank_classes(
    labels: Sequence[str], names: Sequence[str], descriptors: Tensor, reporter: Reporter
) -> tuple[dict[str, Any], TableRows, list[Ranking]]:
    """Every image of a class ranks all others, (M, D); those of its class are the positives.

    Images without a label, and those alone in their class, are ranked but do not ask.
    """
    classes, numbers = np.unique(np.asarray(labels), return_inverse=True)
    sizes = np.bincount(numbers, minlength=len(classes))
    asking = [i for i, label in enumerate(labels) if label and sizes[numbers[i]] > 1]
    unit = F.normalize(descriptors, dim=1)
    rows: TableRows = [["path", "label", "average_precision", "first_rank"]]
    rankings: list[Ranking] = []
    first: list[int] = []
    reporter.stage("ranking", len(asking), "queries")
    for start in range(0, len(asking), BLOCK):
        block = asking[start : start + BLOCK]
        similarity = unit[block] @ unit.T
        similarity[torch.arange(len(block)), block] = -torch.inf
        order = similarity.argsort(dim=1, descending=True, stable=True)[:, :-1].numpy()
        for query, ranking in zip(block, order, strict=True):
            same = numbers[ranking] == numbers[query]
            ranks = np.flatnonzero(same)
            precision = average_precision(ranks, len(ranks))
            first.append(int(ranks[0]))
            rows.append([names[query], labels[query], f"{precision:.6g}", first[-1] + 1])
            nearest, relevant = ranking[:SHOWN].tolist(), same[:SHOWN].tolist()
            rankings.append(Ranking(query, precision, nearest, relevant))
        reporter.advance(len(block))
    reporter.finish()
    return (
        {
            "map": float(np.mean([one.average_precision for one in rankings])),
            **{f"recall@{k}": float((np.asarray(first) < k).mean()) for k in KS},
            "classes": len(set(labels) - {""}),
            "queries": len(asking),
            "images": len(labels),
        },
        rows,
        rankings,
    )
