"""The plane of two principal components, against NumPy's singular value decomposition."""

import numpy as np

from dino_cli.core.pca import plane
from dino_cli.core.pca.plane import principal_plane


def test_places_are_those_of_the_unit_vectors_read_in_blocks(monkeypatch):
    monkeypatch.setattr(plane, "BLOCK", 16)
    rng = np.random.default_rng(0)
    features = (rng.normal(size=(50, 6)) * [5, 3, 1, 1, 1, 1] + 1) * rng.uniform(0.1, 9, (50, 1))
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    centred = unit - unit.mean(axis=0)
    axes = np.linalg.svd(centred, full_matrices=False)[2][:2]
    axes *= np.sign(axes[[0, 1], np.abs(axes).argmax(axis=1)])[:, None]
    places = principal_plane(features)
    assert places.dtype == np.float32
    np.testing.assert_allclose(places, centred @ axes.T, atol=1e-5)


def test_fewer_directions_than_the_plane_has():
    assert principal_plane(np.ones((3, 1))).tolist() == [[0, 0]] * 3
