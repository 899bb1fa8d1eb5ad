"""Where things lie on a map: nothing overlaps, nothing could be added, the legend counts right."""

import numpy as np
import pytest
from numpy.typing import NDArray

from dino_cli.store.pictures.map_layout import (
    entries_of,
    map_layout,
    place_pictures,
    spread_values,
)


def gaps(middles: NDArray[np.float64]) -> NDArray[np.float64]:
    """Distance of every pair, the larger of across and down; the slow way."""
    far = np.abs(middles[:, None] - middles[None]).max(axis=2)
    np.fill_diagonal(far, np.inf)
    return far


@pytest.mark.parametrize("values", [[0, 1], [0, 1, 9], [0, 1, 2, 3, 4, 5, 6, 7, 8, 50]])
def test_few_different_places_stay_apart(values: list[float]) -> None:
    spread = spread_values(np.repeat(values, 20).astype(np.float32))
    left = np.unique(spread)
    assert len(left) == len(values)
    assert np.diff(left).min() > 0.01 * np.ptp(spread) > 1e-3


def test_far_points_leave_no_map_empty() -> None:
    rng = np.random.default_rng(0)
    values = np.concatenate([rng.uniform(0, 1, 950), rng.uniform(40, 41, 49), [900]])
    values = rng.permutation(np.append(values, values[:100])).astype(np.float32)
    spread = spread_values(values)
    np.testing.assert_array_equal(
        np.argsort(spread, kind="stable"), np.argsort(values, kind="stable")
    )
    assert len(np.unique(spread)) == len(np.unique(values))
    ordered = np.sort(spread)
    whole = ordered[-1] - ordered[0]
    assert np.diff(ordered).max() < 0.07 * whole
    many = int(0.8 * len(values))
    assert (ordered[many:] - ordered[:-many]).min() > 0.4 * whole
    assert np.unique(values).size == len(values) - 100, "as many are equal as were"


@pytest.mark.parametrize("values", [[0.0, 5.0], [3.0], [1.0, 1.0], list(range(50))])
def test_what_is_spread_already_stays(values: list[float]) -> None:
    np.testing.assert_array_equal(spread_values(np.array(values, np.float32)), values)


def test_pictures_hide_few_points_and_stay_with_their_own() -> None:
    rng = np.random.default_rng(1)
    crowd = rng.normal(500, 130, (3000, 2)).clip(60, 940)
    alone = np.array([[100.0, 900.0], [900.0, 100.0]])
    points = np.concatenate([crowd, alone])
    side, radius = 60, 3.0
    rows, middles = place_pictures(points, side, radius, (0, 0, 1000, 1000))
    assert gaps(middles).min() > side
    assert len(set(rows.tolist())) == len(rows) > 25
    np.testing.assert_array_equal(middles[np.isin(rows, [3000, 3001])], alone)
    covered = (np.abs(points[None] - middles[:, None]).max(axis=2) < side / 2).sum(axis=1)
    assert covered.sum() - (covered == 1).sum() <= 0.05 * len(points)
    inside = np.linalg.norm(middles - 500, axis=1) < 130
    assert inside.any(), "the crowd is shown too"
    assert (covered == 0).sum() > 20, "places beside it are used"
    assert np.abs(points[rows] - middles).max() < side
    again = place_pictures(points, side, radius, (0, 0, 1000, 1000))
    np.testing.assert_array_equal(middles, again[1])


@pytest.mark.parametrize("count", [1, 2, 5, 300])
def test_all_lies_inside_and_pictures_do_not_overlap(count: int) -> None:
    places = np.random.default_rng(count).normal(size=(count, 2)).astype(np.float32) * [3, 1]
    layout = map_layout(places.astype(np.float32), 1200, legend=200.0, pictures=True)
    left, top, right, bottom = layout.box
    assert (layout.points > [left, top]).all()
    assert (layout.points < [right, bottom]).all()
    assert right + 200 < layout.size[0]
    assert len(layout.chosen) == len(layout.middles) >= 1
    half = layout.side / 2
    assert (layout.middles - half >= [left, top]).all()
    assert (layout.middles + half <= [right, bottom]).all()
    if len(layout.chosen) > 1:
        assert gaps(layout.middles).min() > layout.side
    if count == 2:  # up on the plane is up on the picture
        higher = int(places[:, 1].argmax())
        assert layout.points[higher, 1] < layout.points[1 - higher, 1]


def test_equal_places_make_a_map_too() -> None:
    layout = map_layout(np.zeros((4, 2), np.float32), 800, legend=0.0, pictures=True)
    assert np.isfinite(layout.points).all()
    assert len(layout.chosen) >= 2, "on both sides of the one place"
    assert gaps(layout.middles).min() > layout.side


def test_the_legend_names_up_to_twenty_classes() -> None:
    entries, colours = entries_of(["b", "", "a", "b"])
    assert [(e.text, e.count, e.colour) for e in entries] == [
        ("a", 1, 0), ("b", 2, 1), ("unlabelled", 1, None),
    ]  # fmt: skip
    assert colours.tolist() == [1, -1, 0, 1]
    assert entries_of(["", ""])[0] == []
    many = [f"c{i:02}" for i in range(25) for _ in range(i + 1)]
    entries, colours = entries_of(many)
    assert [e.text for e in entries[:2]] == ["c24", "c23"]
    assert (len(entries), entries[-1].text, entries[-1].count) == (21, "5 other classes", 15)
    assert (colours == -1).sum() == 15
