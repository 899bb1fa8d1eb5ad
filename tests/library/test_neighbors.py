"""`dino_cli.knn`: the same classes as the command."""

from pathlib import Path

import numpy as np
import pytest
from feature_files import clusters, write_index

import dino_cli
from dino_cli.errors import TaskError


def test_knn_equals_the_command(photos: Path, model: dino_cli.Model) -> None:
    features = dino_cli.embed(photos, model)
    found = dino_cli.knn(features, k=2)
    unit = features.vectors / np.linalg.norm(features.vectors, axis=1, keepdims=True)
    cosines = unit @ unit.T
    np.fill_diagonal(cosines, -np.inf)
    np.testing.assert_array_equal(found.rows, np.argsort(-cosines, axis=1, kind="stable")[:, :2])
    np.testing.assert_allclose(
        found.similarities, np.take_along_axis(cosines, found.rows, 1), atol=1e-6
    )
    assert found.predicted == features.labels
    assert found.classes == ["a", "b"]
    assert (found.probabilities > 0.5).all()

    plain = dino_cli.knn(features.vectors, features.vectors[:1], k=3, labels=list("xxxyyy"))
    assert plain.predicted == ["x"]
    assert plain.rows[0, 0] == 0
    unknown = dino_cli.knn(
        features.vectors, -features.vectors[:1], labels=list("xxxyyy"), min_similarity=0.9
    )
    assert (unknown.predicted, unknown.probabilities.tolist()) == ([""], [0.0])
    assert dino_cli.knn(features.vectors, k=1).predicted == [""] * 6  # no labels, only rows

    votes = np.exp(np.sort(cosines, axis=1)[:, ::-1][:, :5].astype(np.float64) / 0.5)
    same = np.array(features.labels)[np.argsort(-cosines, axis=1)[:, :5]]
    hot = dino_cli.knn(features, k=5, temperature=0.5)
    share = [
        votes[i, same[i] == name].sum() / votes[i].sum() for i, name in enumerate(hot.predicted)
    ]
    np.testing.assert_allclose(hot.probabilities, share, atol=1e-4)


def test_knn_of_files(tmp_path: Path) -> None:
    vectors, labels = clusters(30, 1)
    index = write_index(tmp_path / "i.npy", vectors, labels)
    other = write_index(tmp_path / "o.npy", vectors, labels, weights_sha256="cd" * 32)
    test = write_index(tmp_path / "q.npy", *clusters(10, 2))
    found = dino_cli.knn(index, str(test), k=5)
    assert (
        found.predicted == dino_cli.knn(vectors, clusters(10, 2)[0], labels=labels, k=5).predicted
    )
    with pytest.raises(TaskError, match=r"made with m \(weights abab.*, but '.*o\.npy' with"):
        dino_cli.knn(index, other)
