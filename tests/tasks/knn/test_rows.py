"""Rows of feature files as the search reads them, against arrays."""

from pathlib import Path

import numpy as np
import pytest

from dino_cli.errors import TaskError
from dino_cli.tasks.knn.rows import ChainedRows, FiniteRows


def test_chained_rows_are_those_of_one_array() -> None:
    parts = [np.random.default_rng(i).normal(size=(n, 3)) for i, n in enumerate((4, 0, 1, 5))]
    whole, chained = np.concatenate(parts), ChainedRows(parts)
    assert chained.shape == (10, 3)
    for start in range(12):
        for stop in range(start, 12):
            np.testing.assert_array_equal(chained[start:stop], whole[start:stop])


def finite(wrong: int) -> FiniteRows:
    rows = np.zeros((10, 3), np.float32)
    rows[wrong, 1] = np.nan
    return FiniteRows(rows, [f"{i}.jpg" for i in range(10)], Path("f.npy"))


@pytest.mark.parametrize("part", [slice(0, 10), slice(4, 9), slice(6, 7), slice(0, 9, 3)])
def test_a_row_that_is_not_finite_is_named(part: slice) -> None:
    with pytest.raises(TaskError, match=r"features of '6\.jpg' in 'f\.npy'"):
        finite(6)[part]


@pytest.mark.parametrize("before", [[slice(0, 6), slice(7, 10)], [slice(0, 10, 4)], [slice(6, 6)]])
def test_what_was_read_before_vouches_for_nothing_else(before: list[slice]) -> None:
    rows = finite(6)
    for part in before:
        rows[part]
    assert len(rows[0:6]) == 6
    for part in (slice(5, 7), slice(5, 8)):
        with pytest.raises(TaskError, match=r"6\.jpg"):
            rows[part]
