"""Nearest neighbours and votes, against a slow oracle and the original's numbers."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from traced_memory import traced_memory

from dino_cli.core.evaluation.neighbors import nearest, similar_pairs, votes


def oracle(
    queries: np.ndarray, index: np.ndarray, k: int, own: bool = False
) -> list[list[tuple[int, float]]]:
    """One query at a time, in float64; equal similarities in the order of the rows."""
    unit = [row / np.linalg.norm(row) for row in index.astype(np.float64)]
    found = []
    for i, query in enumerate(queries.astype(np.float64)):
        query = query / np.linalg.norm(query)
        pairs = [(j, float(query @ row)) for j, row in enumerate(unit) if not (own and i == j)]
        found.append(sorted(pairs, key=lambda pair: -round(pair[1], 6))[:k])
    return found


def together(blocks: object) -> tuple[np.ndarray, np.ndarray]:
    similarities, rows = zip(*blocks, strict=True)  # type: ignore[call-overload]
    return torch.cat(similarities).numpy(), torch.cat(rows).numpy()


def noise(rows: int, dim: int = 5, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(rows, dim)).astype(np.float32)


@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize("k", [1, 3, 17, 22])
@pytest.mark.parametrize(("query_block", "index_block"), [(1000, 1000), (7, 5), (1, 1), (4, 23)])
def test_nearest_equals_the_oracle(own: bool, k: int, query_block: int, index_block: int) -> None:
    index = noise(23)
    queries = index if own else noise(9, seed=1)
    blocks = nearest(
        queries, index, k, leave_one_out=own, query_block=query_block, index_block=index_block
    )
    similarities, rows = together(blocks)
    expected = oracle(queries, index, k, own)
    assert rows.tolist() == [[j for j, _ in pairs] for pairs in expected]
    np.testing.assert_allclose(
        similarities, [[s for _, s in pairs] for pairs in expected], atol=1e-6
    )
    assert similarities.dtype == np.float32


@pytest.mark.parametrize("index_block", [100, 4, 1])
def test_equals_come_in_the_order_of_the_rows(index_block: int) -> None:
    """Signs along the axes: similarities are exactly -1, 0 and 1, so most of them are equal."""
    index = np.float32([[1, 0], [0, 1], [-2, 0], [3, 0], [0, -1], [1, 0], [0, 5], [-1, 0]])
    _, rows = together(nearest(np.float32([[2, 0]]), index, 8, index_block=index_block))
    assert rows.tolist() == [[0, 3, 5, 1, 4, 6, 2, 7]]


@pytest.mark.parametrize("order", ["as drawn", "nearest first", "nearest last"])
@pytest.mark.parametrize("k", [1, 20, 70])
@pytest.mark.parametrize("own", [False, True])
def test_later_blocks_add_what_is_nearer(order: str, k: int, own: bool) -> None:
    """Blocks of whole groups of columns, equals among them; the nearest last is the worst case."""
    index = np.round(noise(700, 4) * 2) + np.float32([0.5, 0, 0, 0])
    towards = index @ np.float32([1, 1, 1, 1])
    if order != "as drawn":
        index = np.ascontiguousarray(index[np.argsort(towards if "last" in order else -towards)])
    queries = index[:5] if own else np.float32([[1, 1, 1, 1], [1, 2, 0, 0], [-1, 0, 0, 1]])
    found = [
        together(nearest(queries, index, k, leave_one_out=own, query_block=3, index_block=block))
        for block in (64, 96, 700)
    ]
    expected = oracle(queries, index, k, own)
    for similarities, rows in found:
        for values, where, row in zip(similarities, rows, expected, strict=True):
            np.testing.assert_allclose(values, [s for _, s in row], atol=1e-6)
            assert len(set(where.tolist())) == k
            # Equal cosines may differ in float32's last bits, and change places.
            assert {j for j, s in row if s > row[-1][1] + 1e-5} <= set(where.tolist())


def test_equals_in_later_blocks_come_too_late() -> None:
    """Rows 0, 3, 6, … are all equal, and nearest: the first of them, in their order."""
    index = np.tile(np.float32([[1, 0], [0, 1], [-1, 1]]), (200, 1))
    _, rows = together(nearest(np.float32([[5, 0]]), index, 30, index_block=96))
    assert rows.tolist() == [list(range(0, 90, 3))]


def test_a_first_block_with_fewer_rows_than_neighbours() -> None:
    """It holds the nearest, so nothing later is nearer than its last."""
    angles = np.linspace(0, 3, 192)
    index = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    _, rows = together(nearest(np.float32([[1, 0]]), index, 70, index_block=64))
    assert rows.tolist() == [list(range(70))]


def test_rows_that_may_not_be_neighbours() -> None:
    index = noise(12)
    allowed = np.arange(12) % 3 != 0
    _, rows = together(nearest(noise(4, seed=1), index, 8, allowed=allowed, index_block=5))
    expected = oracle(noise(4, seed=1), index[allowed], 8)
    assert rows.tolist() == [[int(np.flatnonzero(allowed)[j]) for j, _ in e] for e in expected]


def test_a_row_without_length_is_no_accident() -> None:
    """A vector of zeros has cosine 0 with everything instead of NaN."""
    similarities, _ = together(nearest(np.zeros((1, 5), np.float32), noise(4), 4))
    assert (similarities == 0).all()


def test_impossible_k_and_widths() -> None:
    with pytest.raises(ValueError, match="k=6 neighbours of 5 rows"):
        next(nearest(noise(2), noise(5), 6))
    with pytest.raises(ValueError, match="k=5 neighbours of 5 rows"):
        next(nearest(noise(5), noise(5), 5, leave_one_out=True))
    with pytest.raises(ValueError, match="k=4 neighbours of 3 rows"):
        next(nearest(noise(2), noise(5), 4, allowed=np.arange(5) > 1))
    with pytest.raises(ValueError, match="k=0 neighbours"):
        next(nearest(noise(2), noise(5), 0))
    with pytest.raises(ValueError, match="5 features, the index 4"):
        next(nearest(noise(2), noise(5, 4), 2))


@pytest.mark.parametrize("block", [1, 4, 7, 100])
def test_similar_pairs_equal_the_oracle(block: int) -> None:
    rows = noise(23, 3).astype(np.float64)
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    expected = [
        (i, j, float(unit[i] @ unit[j]))
        for i in range(23)
        for j in range(i + 1, 23)
        if unit[i] @ unit[j] >= 0.6
    ]
    assert 10 < len(expected) < 150
    blocks = list(similar_pairs(noise(23, 3), 0.6, most=150, block=block))
    first, second, values = (torch.cat(parts).tolist() for parts in zip(*blocks, strict=True))
    assert list(zip(first, second, strict=True)) == [(i, j) for i, j, _ in expected]
    np.testing.assert_allclose(values, [value for *_, value in expected], atol=1e-6)


def test_equal_rows_are_pairs_at_one() -> None:
    rows = noise(100, 384)
    pairs = list(similar_pairs(np.concatenate([rows, rows]), 1.0, most=100))
    assert sum(len(first) for first, *_ in pairs) == 100
    close = np.float32([[1, 0], [1, 0.003]])  # a cosine of 1 - 4.5e-6
    assert [len(first) for first, *_ in similar_pairs(close, 1.0, most=9)] == [0]


def test_too_many_similar_pairs_are_not_collected() -> None:
    rows = np.ones((40, 3), np.float32)  # 780 pairs
    pairs = similar_pairs(rows, 0.9, most=780, block=8)
    assert sum(len(first) for first, *_ in pairs) == 780
    # The first block of rows has 8 · 40 - 36 pairs: none of it is handed on.
    with pytest.raises(OverflowError):
        next(similar_pairs(rows, 0.9, most=283, block=8))


def test_votes_by_hand() -> None:
    """Two neighbours of class 2 outvote a nearer one of class 1; 0 and 3 follow without votes."""
    similarities = torch.tensor([[0.9, 0.85, 0.85]])
    order, shares = votes(similarities, torch.tensor([[1, 2, 2]]), 4, temperature=0.1)
    assert order.tolist() == [[2, 1, 0, 3]]
    weights = np.exp(np.array([9.0, 8.5, 8.5]))
    expected = [weights[1:].sum() / weights.sum(), weights[0] / weights.sum(), 0, 0]
    np.testing.assert_allclose(shares[0], expected, rtol=1e-5)


def test_equal_votes_go_to_the_lower_class() -> None:
    order, _ = votes(torch.tensor([[0.5, 0.5]]), torch.tensor([[3, 1]]), 5)
    assert order.tolist() == [[1, 3, 0, 2, 4]]
    many, _ = votes(torch.ones(1, 1), torch.tensor([[7]]), 3000)
    assert many.tolist() == [[7, *range(7), *range(8, 3000)]]


def test_no_temperature_overflows() -> None:
    _, shares = votes(torch.tensor([[1.0, 0.5]]), torch.tensor([[0, 1]]), 2, temperature=1e-4)
    assert shares.tolist() == [[1.0, 0.0]]


@pytest.mark.golden
def test_accuracies_of_the_original(golden: Any) -> None:
    data = {name: tensor.numpy() for name, tensor in golden.tensors("knn").items()}
    expected = golden.json("knn")
    train_labels = torch.from_numpy(data["train_labels"])
    targets = torch.from_numpy(data["test_labels"])[:, None]
    classes = int(train_labels.max()) + 1
    blocks = nearest(
        data["test_features"],
        data["train_features"],
        max(map(int, expected)),
        query_block=150,
        index_block=400,
    )
    similarities, rows = map(torch.from_numpy, together(blocks))
    found = {}
    for k in map(int, expected):
        order, _ = votes(similarities[:, :k], train_labels[rows[:, :k]], classes)
        hits = order == targets
        found[str(k)] = {
            "top1": 100 * hits[:, :1].sum().item() / len(targets),
            "top5": 100 * hits[:, : min(5, k)].sum().item() / len(targets),
        }
    assert found == expected


@pytest.mark.slow
def test_memory_is_bounded(tmp_path: Path) -> None:
    """numpy never holds more than a block of the index, which has 64 MB."""
    index = np.lib.format.open_memmap(tmp_path / "i.npy", "w+", np.float32, (64_000, 256))
    index[:] = np.random.default_rng(0).normal(size=(1, 256))
    with traced_memory() as traced:
        for _ in nearest(index[:1000], index, 20):
            pass
    assert traced.most < 20e6
