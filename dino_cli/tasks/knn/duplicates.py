"""Pictures that are nearly the same: pairs above a similarity, and the groups they make."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from dino_cli.config.knn import KnnConfig
from dino_cli.core.evaluation.neighbors import PAIR_BLOCK, Rows, similar_pairs
from dino_cli.errors import TaskError, UsageError
from dino_cli.progress import Reporter
from dino_cli.runtime import choose_device
from dino_cli.store.writing.tables import csv_table
from dino_cli.store.writing.targets import explain_errors
from dino_cli.tasks.knn.bank import open_index

__all__ = ["find_duplicates"]

MOST_PAIRS = 20_000_000  # 400 MB; so many are no near-duplicates any more
SHOWN = 1000  # pairs in the result without an output
HEADER = ("group", "path", "duplicate", "similarity")


def find_duplicates(config: KnnConfig, reporter: Reporter) -> dict[str, Any]:
    """List all pairs of the index whose cosine is at least `config.duplicates`.

    Returns {"index": N, "pairs": P, "groups": G, "duplicates": how many pictures could go},
    and `output`, or without one `found`, the first pairs with their group, from 1. Pictures that a
    chain of pairs connects are one group. Raises `UsageError` for queries or an impossible value.
    """
    threshold = config.duplicates
    assert threshold is not None
    if not -1 <= threshold <= 1:
        raise UsageError(f"--duplicates {threshold:g} is not a cosine", "use --duplicates 0.95")
    if config.queries:
        raise UsageError(
            "--duplicates looks inside the index, and takes no queries",
            "embed all pictures into one index, or give --index twice",
        )
    index = open_index(config.index)
    device = choose_device(config.device)
    on = "cpu" if device.type == "mps" else device
    a, b, similarities = _pairs(index.features, threshold, on, reporter)
    total, count = len(index.paths), len(a)
    groups = _groups(total, a, b)

    def rows() -> Iterator[tuple[int, str, str, float]]:
        for one, other, value in zip(a.tolist(), b.tolist(), similarities.tolist(), strict=True):
            yield groups[one], index.paths[one], index.paths[other], float(f"{value:.6g}")

    members = np.unique(np.concatenate([a, b]))
    number = len({groups[i] for i in members.tolist()})
    result: dict[str, Any] = {
        "index": total,
        "pairs": count,
        "groups": number,
        "duplicates": len(members) - number,
    }
    if config.output is None:
        pairs = (dict(zip(HEADER, row, strict=True)) for row in rows())
        result["found"] = [pair for pair, _ in zip(pairs, range(SHOWN), strict=False)]
        if count > SHOWN:
            reporter.remark(f"the first {SHOWN} of {count} pairs; all with -o duplicates.csv")
        return result
    with explain_errors(config.output), csv_table(config.output, HEADER) as write:
        for row in rows():
            write(row)
    return {**result, "output": str(config.output)}


def _pairs(
    features: Rows, threshold: float, device: torch.device | str, reporter: Reporter
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]:
    """Both rows of each pair, and its cosine."""
    total = features.shape[0]
    reporter.stage("comparing", total)
    blocks = similar_pairs(features, threshold, most=MOST_PAIRS, device=device)
    found = []
    try:
        for start, block in zip(range(0, total, PAIR_BLOCK), blocks, strict=True):
            found.append([values.numpy() for values in block])
            reporter.advance(min(PAIR_BLOCK, total - start))
    except OverflowError:
        raise TaskError(
            f"more than {MOST_PAIRS:,} pairs are as similar as {threshold:g}",
            "use a higher --duplicates",
        ) from None
    reporter.finish()
    firsts, seconds, similarities = map(np.concatenate, zip(*found, strict=True))
    return firsts, seconds, similarities


def _groups(total: int, a: NDArray[np.int64], b: NDArray[np.int64]) -> dict[int, int]:
    """Of each row in a pair the number of its group, from 1 in the order of their first rows."""
    parent = np.arange(total)

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = int(parent[i])
        return i

    for one, other in zip(a.tolist(), b.tolist(), strict=True):
        low, high = sorted((root(one), root(other)))
        parent[high] = low  # the first row of a group is its root
    numbers: dict[int, int] = {}
    found: dict[int, int] = {}
    for i in np.unique(np.concatenate([a, b])).tolist():
        found[i] = numbers.setdefault(root(i), len(numbers) + 1)
    return found
