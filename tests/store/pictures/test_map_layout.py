"""Where things lie on a map: nothing overlaps, nothing could be added, the legend counts right."""

import numpy as np
import pytest
from numpy.typing import NDArray

from dino_cli.store.pictures.map_layout import beside, entries_of, map_layout, spread_out


def gaps(middles: NDArray[np.float64]) -> NDArray[np.float64]:
    """Distance of every pair, the larger of across and down; the slow way."""
    far = np.abs(middles[:, None] - middles[None]).max(axis=2)
    np.fill_diagonal(far, np.inf)
    return far


@pytest.mark.parametrize("apart", [0.5, 7.0, 40.0, 1000.0])
def test_chosen_points_keep_apart_and_no_other_would_fit(apart: float) -> None:
    points = np.random.default_rng(0).normal(0, 60, (300, 2))
    chosen = spread_out(points, apart)
    assert gaps(points[chosen]).min() >= apart
    left = np.setdiff1d(np.arange(300), chosen)
    near = np.abs(points[left][:, None] - points[chosen][None]).max(axis=2).min(axis=1)
    assert (near < apart).all()
    np.testing.assert_array_equal(chosen, spread_out(points, apart))


def test_pictures_move_off_what_they_would_hide() -> None:
    rng = np.random.default_rng(1)
    crowd = rng.uniform(480, 520, (400, 2))
    points = np.concatenate([crowd, [[100.0, 100.0]]])
    box = 0, 0, 1000, 1000
    placed = beside(points, np.array([[500.0, 500.0], [100.0, 100.0]]), 80, box)
    hidden = (np.abs(crowd - placed[0]).max(axis=1) < 40).sum()
    assert hidden < 200
    np.testing.assert_array_equal(placed[1], [100.0, 100.0])  # hides no other: stays


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
    assert len(layout.chosen) == 1


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
