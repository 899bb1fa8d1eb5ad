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


def test_a_crowd_takes_nearly_half_of_a_map_and_no_more() -> None:
    crowd, around = np.linspace(49, 51, 400), np.linspace(0, 100, 100)
    spread = np.sort(spread_values(np.concatenate([crowd, around]).astype(np.float32)))
    many = int(0.8 * len(spread))
    room = (spread[many:] - spread[:-many]).min() / np.ptp(spread)
    assert room == pytest.approx(0.45, abs=0.01)


@pytest.mark.parametrize("values", [[0.0, 5.0], [3.0], [1.0, 1.0], list(range(50))])
def test_what_is_spread_already_stays(values: list[float]) -> None:
    np.testing.assert_array_equal(spread_values(np.array(values, np.float32)), values)


@pytest.mark.parametrize("right", [1000, 1600])
def test_pictures_hide_few_points_and_stay_with_their_own(right: int) -> None:
    rng = np.random.default_rng(1)
    crowd = rng.normal(500, 130, (3000, 2)).clip(60, 940)
    crowd[:, 0] += right - 1000
    alone = np.array([[100.0, 900.0], [right - 100.0, 100.0]])
    points = np.concatenate([crowd, alone])
    side, radius, box = 60, 3.0, (0, 0, right, 1000)
    rows, middles = place_pictures(points, side, radius, box)
    assert gaps(middles).min() > side
    assert len(set(rows.tolist())) == len(rows) > 25
    np.testing.assert_array_equal(middles[np.isin(rows, [3000, 3001])], alone)
    covered = (np.abs(points[None] - middles[:, None]).max(axis=2) < side / 2).sum(axis=1)
    assert covered.sum() - (covered == 1).sum() <= 0.05 * len(points)
    inside = np.linalg.norm(middles - [right - 500, 500], axis=1) < 130
    assert inside.any(), "the crowd is shown too"
    assert (covered == 0).sum() > 20, "places beside it are used"
    assert np.abs(points[rows] - middles).max() < side
    again = place_pictures(points, side, radius, box)
    np.testing.assert_array_equal(middles, again[1])


def test_pictures_in_a_crowd_without_room_are_no_second_crowd() -> None:
    points = np.random.default_rng(0).uniform(0, 1000, (10_000, 2))
    rows, middles = place_pictures(points, 30, 2.0, (0, 0, 1000, 1000))
    np.testing.assert_array_equal(middles, points[rows])
    assert len(rows) > 30
    assert gaps(middles).min() >= 1.7 * 30


def test_one_picture_is_shown_whatever_it_hides() -> None:
    points = np.array([[40.0, 40.0], [41.0, 40.0], [40.0, 41.0]])
    rows, middles = place_pictures(points, 60, 3.0, (0, 0, 80, 80))
    np.testing.assert_array_equal(middles, points[rows])
    assert len(rows) == 1


@pytest.mark.parametrize("count", [1, 2, 5, 300])
def test_all_lies_inside_and_pictures_do_not_overlap(count: int) -> None:
    places = np.random.default_rng(count).normal(size=(count, 2)).astype(np.float32) * [3, 1]
    layout = map_layout(places.astype(np.float32), 1200, legend=200.0, pictures=True)
    left, top, right, bottom = layout.box
    assert (layout.points > [left, top]).all()
    assert (layout.points < [right, bottom]).all()
    assert right + 200 < layout.size[0]
    assert layout.size[1] - bottom == left
    assert len(layout.chosen) == len(layout.middles) >= 1
    half = layout.side / 2
    assert (layout.middles - half >= [left, top]).all()
    assert (layout.middles + half <= [right, bottom]).all()
    if len(layout.chosen) > 1:
        assert gaps(layout.middles).min() > layout.side
    if count == 2:  # both have room, and up on the plane is up on the picture
        np.testing.assert_array_equal(layout.middles, layout.points)
        higher = int(places[:, 1].argmax())
        assert layout.points[higher, 1] < layout.points[1 - higher, 1]


@pytest.mark.parametrize(("span", "height"), [((3, 2), 2 / 3), ((5, 1), 0.56), ((1, 5), 0.9)])
def test_a_map_is_as_high_as_its_places(span: tuple[int, int], height: float) -> None:
    places = np.random.default_rng(0).uniform(0, span, (500, 2)).astype(np.float32)
    layout = map_layout(places, 2400, legend=0.0, pictures=True)
    left, top, right, bottom = layout.box
    assert (bottom - top) / (right - left) == pytest.approx(height, abs=0.01)
    across, down = np.ptp(layout.points, axis=0) / np.ptp(places, axis=0)
    assert (across == pytest.approx(down)) == (height == 2 / 3), "one scale where that can be"


def test_a_map_tells_whether_it_is_to_scale() -> None:
    places = np.random.default_rng(0).uniform(0, 1, (500, 2)).astype(np.float32)
    assert map_layout(places, 2400, legend=0.0, pictures=False).to_scale
    places[7, 1] = 100
    layout = map_layout(places, 2400, legend=0.0, pictures=False)
    assert not layout.to_scale
    assert np.ptp(np.delete(layout.points[:, 1], 7)) > 0.9 * np.ptp(layout.points[:, 1])


def test_fewer_points_are_larger() -> None:
    places = np.random.default_rng(0).uniform(0, 1, (50_000, 2)).astype(np.float32)
    counts = (5, 5000, 50_000)
    radii = [map_layout(places[:n], 2400, legend=0, pictures=False).radius for n in counts]
    assert radii[0] == 9
    assert 9 > radii[1] > radii[2] == 2.6


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


def test_of_many_classes_the_smallest_are_grey() -> None:
    names = [f"c{i:02}" for i in range(21)]
    entries, _ = entries_of([*names[19::-1], *names[5:20]])
    assert [entry.text for entry in entries] == names[:20], "by name, whatever their sizes"
    entries, colours = entries_of([*names[::-1], "c20", "c07"])
    assert [entry.text for entry in entries] == ["c07", "c20", *names[:7], *names[8:19], "1 other"]
    assert (colours.tolist().index(-1), (colours == -1).sum(), entries[-1].count) == (1, 1, 1)
