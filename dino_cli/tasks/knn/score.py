"""How many predictions are right: over all, for each class, and among those not rejected."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from dino_cli.tasks.knn.bank import Bank
from dino_cli.tasks.knn.search import NeighborBlock, vote

__all__ = ["AccuracyCounter", "ClassScore"]


class AccuracyCounter:
    """Top-1 and top-5 hits for each k, over the queries whose label is a class of the index."""

    def __init__(self, bank: Bank, ks: Sequence[int], temperature: float) -> None:
        self.bank, self.temperature = bank, temperature
        self.hits = {k: [0, 0] for k in ks}
        self.judged = self.unknown = 0

    def add(self, found: NeighborBlock) -> None:
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


class ClassScore:
    """The confusion matrix at one k, and what a threshold on the similarity rejects.

    counts: int64 (C, C + 1), a row for each true class, a column for each predicted one; the last
    column counts the rejected.
    """

    def __init__(
        self, bank: Bank, k: int, temperature: float, min_similarity: float | None
    ) -> None:
        self.bank, self.k, self.temperature = bank, k, temperature
        self.min_similarity = min_similarity
        classes = len(bank.classes)
        self.counts = np.zeros((classes, classes + 1), np.int64)
        self.queries = self.rejected = self.strangers = self.strangers_rejected = 0

    def add(self, found: NeighborBlock) -> None:
        order, _ = vote(found, self.bank, self.k, self.temperature)
        predicted = order[:, 0].numpy().copy()
        if self.min_similarity is not None:
            predicted[(found.similarities[:, 0] < self.min_similarity).numpy()] = -1
        targets = np.array([self.bank.numbers.get(label, -1) for label in found.labels])
        strange = np.array([bool(label) for label in found.labels]) & (targets < 0)
        self.queries += len(predicted)
        self.rejected += int((predicted < 0).sum())
        self.strangers += int(strange.sum())
        self.strangers_rejected += int((strange & (predicted < 0)).sum())
        known = targets >= 0
        np.add.at(self.counts, (targets[known], predicted[known]), 1)  # -1: the last column

    def per_class(self) -> dict[str, dict[str, Any]]:
        """Of each class with queries: how many, the share that is right, and the class that most of
        the others are taken for."""
        table: dict[str, dict[str, Any]] = {}
        for number, name in enumerate(self.bank.classes):
            row = self.counts[number]
            total = int(row.sum())
            if not total:
                continue
            wrong = row.copy()
            wrong[number] = 0
            worst = int(wrong.argmax())
            table[name] = {
                "queries": total,
                "top1": 100 * int(row[number]) / total,
                "confused_with": [*self.bank.classes, None][worst] if wrong[worst] else None,
                "confused": int(wrong[worst]),
            }
        return table

    def rejection(self) -> dict[str, Any]:
        """Percent of the queries that are rejected, by whether their class is in the index, and
        the accuracy of the rest; None where there are none."""
        judged = int(self.counts.sum())
        refused = int(self.counts[:, -1].sum())
        right = int(np.trace(self.counts))
        return {
            "min_similarity": self.min_similarity,
            "rejected": self.rejected,
            "of_known": _percent(refused, judged),
            "of_unknown": _percent(self.strangers_rejected, self.strangers),
            "top1_of_accepted": _percent(right, judged - refused),
        }


def _percent(part: int, whole: int) -> float | None:
    return 100 * part / whole if whole else None
