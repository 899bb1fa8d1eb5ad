"""Features to their nearest neighbours and classes."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from dino_cli.config.knn import KnnConfig
from dino_cli.errors import TaskError, UsageError
from dino_cli.library.features import Features
from dino_cli.progress import Reporter
from dino_cli.store.embeddings.reading import Embeddings
from dino_cli.tasks.knn.bank import bank_of, compare, open_index, unlabelled
from dino_cli.tasks.knn.check import check_votes
from dino_cli.tasks.knn.queries import of_features
from dino_cli.tasks.knn.search import predict, search

__all__ = ["Neighbors", "knn"]


@dataclass(frozen=True)
class Neighbors:
    """For Q queries: predicted classes ("" below `min_similarity`) and their shares of the votes
    (Q,); the k nearest rows of the index, int64 (Q, k), and their cosines, float32 (Q, k), nearest
    first. classes: of the index; without any, nothing is predicted."""

    predicted: list[str]
    probabilities: NDArray[np.float32]
    rows: NDArray[np.int64]
    similarities: NDArray[np.float32]
    classes: list[str]


def knn(
    index: str | PathLike[str] | Features | NDArray[Any],
    queries: str | PathLike[str] | Features | NDArray[Any] | None = None,
    *,
    labels: Sequence[str] | None = None,
    k: int = 20,
    temperature: float = KnnConfig.temperature,
    min_similarity: float | None = None,
) -> Neighbors:
    """Weighted k-NN, as `dino knn`: features by file name, from `embed`, or as an array (N, D).

    labels: of the index's rows, "" where unknown; they replace those in a file. Without queries
    every row of the index is compared with all others.

    Raises `UsageError` for arrays that are no vectors or of another length than the index's, for
    labels of another number, and for impossible numbers; `TaskError` for files that cannot be read
    or were made by another model, for rows that are not finite, and for no queries.
    """
    config = KnnConfig(k=(k,), temperature=temperature, min_similarity=min_similarity)
    check_votes(config)
    bank_rows = _rows(index, labels)
    known = any(bank_rows.labels)
    bank = bank_of(bank_rows, Reporter()) if known else unlabelled(bank_rows)
    source = _rows(queries, None) if queries is not None else bank_rows
    if isinstance(index, str | PathLike) and isinstance(queries, str | PathLike):
        compare(bank_rows, source.metadata, repr(str(queries)))
    if source.features.shape[1] != bank_rows.features.shape[1]:
        raise UsageError(
            f"queries of {source.features.shape[1]} numbers each, an index of"
            f" {bank_rows.features.shape[1]}",
            "embed both with the same model",
        )
    most = int(bank.voting.sum()) - (queries is None)
    if most < 1:
        raise UsageError(f"an index of {len(bank.voting)} rows", "use one of two rows or more")
    asked = of_features(source, own=queries is None)
    rows, similarities, predicted, shares = [], [], [], []
    for found in search(asked, bank, min(k, most), torch.device("cpu"), Reporter()):
        rows.append(found.rows.numpy())
        similarities.append(found.similarities.numpy())
        if known:
            for row in predict(found, bank, min(k, most), 0, temperature, min_similarity):
                predicted.append(str(row[1]))
                shares.append(float(str(row[2])) if row[1] else 0.0)
        else:
            predicted += [""] * len(found.paths)
            shares += [0.0] * len(found.paths)
    return Neighbors(
        predicted,
        np.array(shares, np.float32),
        np.concatenate(rows),
        np.concatenate(similarities),
        bank.classes,
    )


def _rows(
    source: str | PathLike[str] | Features | NDArray[Any], labels: Sequence[str] | None
) -> Embeddings:
    if isinstance(source, str | PathLike):
        export = open_index(Path(source))
    elif isinstance(source, Features):
        export = Embeddings(Path("memory"), source.vectors, source.paths, source.labels, {})
    else:
        vectors = np.asarray(source, np.float32)
        empty = [""] * len(vectors)
        export = Embeddings(Path("memory"), vectors, empty, empty, {})
    if len(export.features.shape) != 2:
        raise UsageError(f"features of shape {export.features.shape}", "give vectors, (N, D)")
    if not export.paths:
        raise TaskError("there are no rows of features", "embed some pictures first")
    if isinstance(export.features, np.ndarray):  # those of a file are looked at as they are read
        sound = np.isfinite(export.features).all(axis=1)
        if not sound.all():
            raise TaskError(f"row {int(np.argmin(sound))} is not finite", "leave it out")
    if labels is None:
        return export
    if len(labels) != len(export.paths):
        raise UsageError(f"{len(labels)} labels for {len(export.paths)} rows", "give one for each")
    return replace(export, labels=["" if one is None else str(one) for one in labels])
