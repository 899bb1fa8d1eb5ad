"""The approximate index: exact with one list, and as good as it says with several."""

import numpy as np
import pytest
import torch

from dino_cli.core.evaluation import faiss_index
from dino_cli.core.evaluation.faiss_index import ApproximateIndex
from dino_cli.core.evaluation.neighbors import nearest

pytest.importorskip("faiss")


def noise(rows: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(rows, 16)).astype(np.float32)


@pytest.fixture
def few_probes(monkeypatch: pytest.MonkeyPatch) -> None:
    """One list for 40 rows, of which a query looks into one."""
    monkeypatch.setattr(faiss_index, "FEWEST_FOR_LISTS", 1)
    monkeypatch.setattr(faiss_index, "FEWEST_PROBES", 1)


@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize("some", [False, True])
def test_one_list_is_exact(monkeypatch: pytest.MonkeyPatch, own: bool, some: bool) -> None:
    monkeypatch.setattr(faiss_index, "BLOCK", 64)
    index = noise(300)
    queries = index if own else noise(20, 1)
    allowed = np.random.default_rng(2).random(300) < 0.5 if some else None
    found = ApproximateIndex(index, allowed=allowed).nearest(queries, 7, leave_one_out=own)
    exact = nearest(queries, index, 7, leave_one_out=own, allowed=allowed)
    similarities, rows = (torch.cat(parts) for parts in zip(*found, strict=True))
    expected, _ = (torch.cat(parts) for parts in zip(*exact, strict=True))
    torch.testing.assert_close(similarities, expected, atol=2e-3, rtol=0)
    unit = index / np.linalg.norm(index, axis=1, keepdims=True)
    cosines = (queries / np.linalg.norm(queries, axis=1, keepdims=True)) @ unit.T
    np.testing.assert_allclose(np.take_along_axis(cosines, rows.numpy(), 1), expected, atol=2e-3)
    if own:
        assert not (rows == torch.arange(300)[:, None]).any()
    if allowed is not None:
        assert allowed[rows.numpy()].all()


def test_lists_are_as_many_as_have_enough_rows() -> None:
    """700 rows make 17 lists, and a query looks into 16 of them."""
    assert 0.99 < ApproximateIndex(noise(700)).recall(10) <= 1


@pytest.mark.usefixtures("few_probes")
def test_recall_is_the_share_of_the_exact_neighbours_that_are_found() -> None:
    features = noise(150)
    index = ApproximateIndex(features)
    ((_, exact),) = nearest(features, features, 5, leave_one_out=True)
    ours = torch.cat([rows for _, rows in index.nearest(features, 6)])
    shared = [len(set(a) & set(b)) / 5 for a, b in zip(exact.tolist(), ours.tolist(), strict=True)]
    assert index.recall(5) == pytest.approx(np.mean(shared))
    assert 0.3 < np.mean(shared) < 0.95


def test_rows_that_may_not_be_neighbours_are_not_missed() -> None:
    assert 0.99 < ApproximateIndex(noise(300), allowed=np.arange(300) % 3 > 0).recall(10) <= 1


@pytest.mark.usefixtures("few_probes")
def test_where_lists_are_short_all_are_looked_into_but_only_then() -> None:
    index, queries = ApproximateIndex(noise(150)), noise(10, 1)
    ((_, before),) = index.nearest(queries, 5)
    ((_, every),) = index.nearest(queries, 150)
    assert every.sort(dim=1).values.tolist() == [list(range(150))] * 10
    ((_, after),) = index.nearest(queries, 5)
    assert torch.equal(after, before)
    assert not torch.equal(every[:, :5], before)
