"""Images that would find themselves: queries that the index holds, and what it holds twice."""

import os

from dino_cli.progress import Reporter
from dino_cli.tasks.knn.bank import Bank
from dino_cli.tasks.knn.queries import Queries

__all__ = ["tell_of_known"]

MOST_COMPARED = 1_000_000  # paths of queries, and of the index, that are looked at


def tell_of_known(queries: Queries, bank: Bank, reporter: Reporter, *, files: int = 1) -> None:
    """Say how many queries find themselves first, which flatters every figure.

    files: that make the index; one alone holds no image twice.
    """
    indexed = bank.index.paths[:MOST_COMPARED]
    if queries.own:
        if files > 1 and (twice := len(indexed) - len(set(map(_key, indexed)))):
            reporter.remark(
                f"{twice} of {len(indexed)} images are in the index once more and will find"
                " themselves"
            )
        return
    asked = set(map(_key, queries.paths[:MOST_COMPARED]))
    if known := len(asked.intersection(map(_key, indexed))):
        one = len(queries.paths) == 1
        reporter.remark(
            f"{known} of {len(queries.paths)} {'query is' if one else 'queries are'} in the index"
            f" and will find {'itself' if one else 'themselves'}; without queries `dino knn`"
            " classifies every image of the index by the others"
        )


def _key(path: str) -> int:
    """A number for a file, however its path is written; a million take less memory than paths."""
    return hash(os.path.abspath(path))
