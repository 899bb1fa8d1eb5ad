"""The nearest images of the index for every query, and the votes they make."""

from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass

import torch
from torch import Tensor

from dino_cli.config.knn import KnnConfig
from dino_cli.config.values import counted
from dino_cli.core.evaluation.faiss_index import ApproximateIndex
from dino_cli.core.evaluation.neighbors import nearest, votes
from dino_cli.errors import TaskError
from dino_cli.progress import Reporter
from dino_cli.tasks.knn.bank import Bank
from dino_cli.tasks.knn.queries import Queries

__all__ = [
    "NeighborBlock",
    "NeighborCounts",
    "approximate_index",
    "clamp",
    "count_neighbors",
    "predict",
    "rounded",
    "search",
    "vote",
]

PREDICTING_K = 20  # "20 usually works best" (the original's help)
RECALL_K = 10


@dataclass(frozen=True)
class NeighborBlock:
    """A block of q queries: neighbours' similarities (q, K) and rows (q, K), nearest first."""

    paths: list[str]
    labels: list[str]
    similarities: Tensor
    rows: Tensor


@dataclass(frozen=True, kw_only=True)
class NeighborCounts:
    """How many neighbours are for what. ks: votes of each accuracy that is told; predicting: votes
    of a prediction; named: neighbours beside it in the output."""

    ks: list[int]
    predicting: int
    named: int

    @property
    def most(self) -> int:
        """As many as have to be found."""
        return max(*self.ks, self.predicting, self.named)


def count_neighbors(
    config: KnnConfig, bank: Bank, reporter: Reporter, given: Set[str]
) -> NeighborCounts:
    """What was asked for (`given`: what the person typed), at most what the index has.

    Raises `TaskError` when leave-one-out would leave none.
    """
    own = not config.queries
    available = int(bank.voting.sum()) - own
    if available < 1:
        raise TaskError(
            f"the index {str(config.index[0])!r} has a single image with a label",
            "leave-one-out needs two: embed more, or name queries",
        )
    if "neighbors" in given and config.neighbors > available:
        reporter.remark(
            f"--neighbors {config.neighbors} but {_images(available, own)}; naming {available}"
        )
    # On a page nobody sees the accuracies of the default numbers.
    heard = reporter if not config.page or "k" in given else Reporter()
    ks = clamp(config.k, available, own, heard) if bank.classes else []
    return NeighborCounts(
        ks=ks,
        predicting=ks[0] if "k" in given and ks else min(PREDICTING_K, available),
        named=min(config.neighbors, available),
    )


def clamp(ks: Sequence[int], available: int, own: bool, reporter: Reporter) -> list[int]:
    """Each k at most the images there are, without repetitions."""
    if over := [f"k={k}" for k in ks if k > available]:
        reporter.remark(f"{' and '.join(over)} but {_images(available, own)}; using {available}")
    return list(dict.fromkeys(min(k, available) for k in ks))


def _images(available: int, own: bool) -> str:
    return f"the index has {counted(available, 'other image' if own else 'image')}"


def search(
    queries: Queries,
    bank: Bank,
    k: int,
    device: torch.device,
    reporter: Reporter,
    *,
    approximate: ApproximateIndex | None = None,
) -> Iterator[NeighborBlock]:
    """The k nearest images of the index that may vote, for every query, block by block.

    approximate: searches instead of all rows being compared, on the CPU.
    """
    staged = not queries.pictures  # embedding pictures has a stage of its own
    allowed = None if bank.voting.all() else bank.voting
    if staged:
        reporter.stage("searching", len(queries.paths), "queries")
    for features, which in queries.chunks:
        start = 0
        blocks = (
            approximate.nearest(features, k, leave_one_out=queries.own)
            if approximate is not None
            else nearest(
                features,
                bank.index.features,
                k,
                leave_one_out=queries.own,
                allowed=allowed,
                device="cpu" if device.type == "mps" else device,
            )
        )
        for similarities, rows in blocks:
            block = which[start : start + len(rows)]
            start += len(rows)
            yield NeighborBlock(
                [queries.paths[i] for i in block],
                [queries.labels[i] for i in block],
                similarities,
                rows,
            )
            if staged:
                reporter.advance(len(rows))
    if staged:
        reporter.finish()


def approximate_index(
    bank: Bank, reporter: Reporter
) -> tuple[ApproximateIndex, dict[str, dict[str, float]]]:
    """The index for `--search faiss`, and `recall` for the result: the share that it finds of the
    nearest `k`. Raises `TaskError` without faiss."""
    allowed = None if bank.voting.all() else bank.voting
    reporter.stage("indexing", len(bank.index.paths), "rows")
    try:
        index = ApproximateIndex(bank.index.features, allowed=allowed)
    except ImportError:
        raise TaskError(
            "--search faiss needs faiss, which is not installed", "pip install 'dino-cli[faiss]'"
        ) from None
    at = min(RECALL_K, int(bank.voting.sum()) - 1)
    recall = index.recall(at)
    reporter.finish()
    reporter.remark(f"faiss finds {100 * recall:.1f} % of the {at} nearest neighbours")
    return index, {"recall": {"k": at, "share": round(recall, 4)}}


def vote(found: NeighborBlock, bank: Bank, k: int, temperature: float) -> tuple[Tensor, Tensor]:
    """Classes in falling order of votes and their shares, both (q, C), from the k nearest."""
    labels = bank.labels[found.rows[:, :k]]
    return votes(found.similarities[:, :k], labels, len(bank.classes), temperature)


def predict(
    found: NeighborBlock,
    bank: Bank,
    k: int,
    named: int,
    temperature: float,
    min_similarity: float | None = None,
) -> Iterator[list[object]]:
    """Rows of the predictions: path, predicted, probability, label, then neighbours.

    Below `min_similarity`, and without classes, nothing is predicted: "" and no probability.
    """
    known = torch.full((len(found.paths),), bool(bank.classes))
    if bank.classes:
        order, shares = vote(found, bank, k, temperature)
        if min_similarity is not None:
            known = found.similarities[:, 0] >= min_similarity
    for i, path in enumerate(found.paths):
        row: list[object] = [path, "", "", found.labels[i]]
        if known[i]:
            row[1:3] = [bank.classes[int(order[i, 0])], rounded(shares[i, 0])]
        for j in range(named):
            row += [bank.index.paths[int(found.rows[i, j])], rounded(found.similarities[i, j])]
        yield row


def rounded(value: Tensor) -> float:
    """float32 carries about six digits; more would pretend."""
    return float(f"{float(value):.6g}")
