"""The index: one file of features or several as one, and the classes in it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dino_cli.errors import TaskError
from dino_cli.progress import Reporter
from dino_cli.store.embeddings.facts import made_differently
from dino_cli.store.embeddings.reading import Embeddings, read_embeddings
from dino_cli.tasks.knn.rows import ChainedRows, FiniteRows
from dino_cli.tasks.provenance import NETWORK

__all__ = ["Bank", "bank_of", "compare", "open_bank", "open_index", "unlabelled"]

# What two feature files, or an index and a model, must agree in, by the names in the .json.
SAME = (*NETWORK, "features", "layer", "preprocessing", "multi_scale", "dim")


@dataclass(frozen=True)
class Bank:
    """The labelled index. labels: class numbers, int64 (M,), -1 without; voting: bool (M,)."""

    index: Embeddings
    classes: list[str]
    numbers: dict[str, int]
    labels: Tensor
    voting: NDArray[np.bool_]


def open_bank(path: Path | Sequence[Path], reporter: Reporter) -> Bank:
    """Read an index. Raises `TaskError` when nothing in it has a label."""
    return bank_of(open_index(path), reporter)


def open_index(path: Path | Sequence[Path]) -> Embeddings:
    """One file of features, or several that the same model made, one after the other.

    Raises `TaskError` when they hold no row; rows that are not finite raise it when they are read.
    """
    paths = [path] if isinstance(path, Path) else list(dict.fromkeys(path))
    parts = [_finite(read_embeddings(one)) for one in paths]
    for part in parts[1:]:
        compare(parts[0], part.metadata, repr(str(part.path)))
    if not any(part.paths for part in parts):
        raise TaskError(f"{str(paths[0])!r} holds no pictures", "embed some first")
    if len(parts) == 1:
        return parts[0]
    return replace(
        parts[0],
        features=ChainedRows([part.features for part in parts]),
        paths=[name for part in parts for name in part.paths],
        labels=[label for part in parts for label in part.labels],
        arrays={},
    )


def _finite(index: Embeddings) -> Embeddings:
    return replace(index, features=FiniteRows(index.features, index.paths, index.path))


def bank_of(index: Embeddings, reporter: Reporter) -> Bank:
    """The classes of an index. Raises `TaskError` when nothing in it has a label."""
    classes = sorted({label for label in index.labels if label})
    if not classes:
        raise TaskError(
            f"the index {str(index.path)!r} has no labels",
            "embed a folder that has one folder per class, or a .txt list with labels; to search"
            " without classes add --neighbors 5 or -o hits.html",
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


def unlabelled(index: Embeddings) -> Bank:
    """An index to search in without classifying: all rows may be found."""
    count = len(index.paths)
    labels = torch.full((count,), -1)
    return Bank(index, [], {}, labels, np.ones(count, dtype=np.bool_))


def compare(index: Embeddings, query: Mapping[str, Any], name: str) -> None:
    """Raises `TaskError` unless the same model, its same layer and preprocessing made both."""
    if different := made_differently(index.metadata, query, SAME):
        raise TaskError(
            f"the index {str(index.path)!r} was made with {different.told(different.ours)}, but"
            f" {name} with {different.told(different.theirs)}",
            "embed both with the same model and options",
        )
