"""Classify by weighted nearest neighbours over exported features (paper, appendix F.1)."""

from collections.abc import Set
from typing import Any

from dino_cli.config.knn import KnnConfig
from dino_cli.core.evaluation.faiss_index import ApproximateIndex
from dino_cli.data.decoding.pixel_limit import within_pixel_limit
from dino_cli.errors import TaskError
from dino_cli.progress import Reporter
from dino_cli.runtime import choose_device
from dino_cli.tasks.knn.answers import answers
from dino_cli.tasks.knn.bank import Bank, bank_of, open_index, unlabelled
from dino_cli.tasks.knn.check import check
from dino_cli.tasks.knn.duplicates import find_duplicates
from dino_cli.tasks.knn.known import tell_of_known
from dino_cli.tasks.knn.queries import Queries, open_queries
from dino_cli.tasks.knn.search import approximate_index, count_neighbors, search

__all__ = ["knn"]


@within_pixel_limit
def knn(config: KnnConfig, reporter: Reporter, *, given: Set[str] = frozenset()) -> dict[str, Any]:
    """Predict a class for every query; compare with the queries' own labels where these are known.

    given: names of the options that the person typed; the model is the index's unless they name
    one. Returns `{"k": {"20": {"top1": percent, "top5": percent}}, "queries": N, "index": M}`.
    Without known labels `k` is empty. `predictions` lists what was found, without an output, where
    no labels are known or only by the folder that was given.
    With `per_class` also `classes`, with `min_similarity` also `rejection`, with faiss `recall`.
    With `duplicates` see `find_duplicates`. An index without labels can be searched: for a page, a
    .csv, or where the person typed --neighbors, which puts them into `predictions`.
    """
    check(config)
    if config.duplicates is not None:
        return find_duplicates(config, reporter)
    index = open_index(config.index)
    named = "neighbors" in given
    searched = not any(index.labels) and (config.output is not None or named)
    bank = unlabelled(index) if searched else bank_of(index, reporter)
    counts = count_neighbors(config, bank, reporter, given)
    queries = open_queries(config, bank.index, reporter, given)
    _check_classes(config, bank, queries)
    tell_of_known(queries, bank, reporter, files=len(config.index))
    device = choose_device(config.device)
    approximate: ApproximateIndex | None = None
    facts: dict[str, Any] = {}
    if config.search == "faiss":
        approximate, facts = approximate_index(bank, reporter)
    with answers(config, bank, queries, counts, named=named) as answered:
        for found in search(queries, bank, counts.most, device, reporter, approximate=approximate):
            answered.add(found)
        answered.write()
    return {**answered.result(reporter), **facts}


def _check_classes(config: KnnConfig, bank: Bank, queries: Queries) -> None:
    """Raises `TaskError` where figures of the classes are asked for and no query's is known."""
    if (config.confusion or config.per_class) and not any(
        label in bank.numbers for label in queries.labels
    ):
        asked = "--confusion" if config.confusion else "--per-class"
        raise TaskError(
            f"{asked} needs queries whose classes are known, and no query is of a class of the"
            f" index {str(config.index[0])!r}",
            "name folders that hold one folder for each class",
        )
