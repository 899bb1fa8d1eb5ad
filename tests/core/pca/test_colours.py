"""Principal components, against NumPy's singular value decomposition."""

import numpy as np
import pytest
import torch

from dino_cli.core.pca.colours import fit_border_split, fit_components
from dino_cli.core.pca.moments import Moments


def _features(seed=0, images=4, n=30, d=8):
    g = torch.Generator().manual_seed(seed)
    scale = torch.tensor([5.0, 3.0, 2.0] + [0.1] * (d - 3))
    turn = torch.linalg.qr(torch.randn(d, d, generator=g))[0]
    return [torch.randn(n, d, generator=g) * scale @ turn + 3 for _ in range(images)]


def test_components_are_those_of_all_images_together():
    features = _features()
    inside = [torch.rand(30, generator=torch.Generator().manual_seed(i)) > 0.4 for i in range(4)]
    found = fit_components([f.half() for f in features], inside)
    together = torch.cat([f.half().double()[k] for f, k in zip(features, inside, strict=True)])
    centred = (together - together.mean(0)).numpy()
    _, singular, rows = np.linalg.svd(centred, full_matrices=False)
    np.testing.assert_allclose(found.mean, together.mean(0), rtol=1e-5)
    for mine, theirs in zip(found.directions.numpy(), rows[:3], strict=True):
        assert abs(mine @ theirs) == pytest.approx(1, abs=1e-4)
        assert mine[np.abs(mine).argmax()] > 0
    np.testing.assert_allclose(found.shares, (singular**2 / (singular**2).sum())[:3], rtol=1e-4)
    places = found.project(together).numpy()
    np.testing.assert_allclose(np.abs(places), np.abs(centred @ rows[:3].T), atol=1e-3)


def test_patches_outside_do_not_count():
    features = _features()
    inside = [torch.rand(30, generator=torch.Generator().manual_seed(i)) > 0.4 for i in range(4)]
    inside[2][:] = False
    alone = [f[keep] for f, keep in zip(features, inside, strict=True) if keep.any()]
    for f, keep in zip(features, inside, strict=True):
        f[~keep] *= 100
    found = fit_components(features, inside)
    expected = fit_components(alone, [torch.ones(len(f), dtype=torch.bool) for f in alone])
    for name, value in vars(expected).items():
        torch.testing.assert_close(getattr(found, name), value)


def test_colours_span_the_quantiles_and_keep_the_order():
    features = _features()
    found = fit_components(features, [torch.ones(30, dtype=torch.bool)] * 4)
    colours = torch.cat([found.colours(one) for one in features])
    places = torch.cat([found.project(one) for one in features])
    assert colours.min() == 0
    assert colours.max() == 1
    second = places.sort(dim=0).values[[1, -2]]  # of 120 patches, a hundredth from either end
    torch.testing.assert_close(torch.stack([found.low, found.high]), second)
    for channel in range(3):
        order = places[:, channel].argsort()
        assert (colours[order, channel].diff() >= 0).all()
        assert 0 < (colours[:, channel] == 1).float().mean() < 0.05


def test_the_range_of_many_patches_is_read_from_all_images(monkeypatch):
    monkeypatch.setattr("dino_cli.core.pca.colours.MOST_FOR_RANGE", 30)
    features = [(1 + i) * f for i, f in enumerate(_features())]
    found = fit_components(features, [torch.ones(30, dtype=torch.bool)] * 4)
    fourth = found.project(torch.cat(features))[::4]
    torch.testing.assert_close(found.low, fourth.amin(dim=0))
    torch.testing.assert_close(found.high, fourth.amax(dim=0))


def test_nothing_inside_means_everything():
    features = _features()
    none = fit_components(features, [torch.zeros(30, dtype=torch.bool)] * 4)
    every = fit_components(features, [torch.ones(30, dtype=torch.bool)] * 4)
    torch.testing.assert_close(none.directions, every.directions)


@pytest.mark.parametrize("n", [1, 2, 5])
def test_few_or_equal_patches_have_finite_colours(n):
    same = fit_components([torch.ones(n, 6)], [torch.ones(n, dtype=torch.bool)])
    assert (same.colours(torch.ones(n, 6)) == 0.5).all()
    few = [torch.randn(n, 2, generator=torch.Generator().manual_seed(0))]
    colours = fit_components(few, [torch.ones(n, dtype=torch.bool)]).colours(few[0])
    assert colours.shape == (n, 3)
    assert colours.isfinite().all()


SHAPES = {
    "in the middle": ["........", "........", "..####..", "..####..", "..####..", "........"],
    "in a corner": ["#####...", "#####...", "#####...", "#####...", "........", "........"],
    "from top to bottom": ["..####..", "...##...", "...##...", "...##...", "...##...", "..####.."],
    "from left to right": ["........", "#......#", "########", "########", "#......#", "........"],
    "all but the corners": [".######.", "########", "########", "########", "########", ".######."],
}


@pytest.mark.parametrize("shape", SHAPES)
def test_border_split_takes_what_is_less_at_the_border_than_elsewhere(shape):
    truth = torch.tensor([[cell == "#" for cell in row] for row in SHAPES[shape]])
    g = torch.Generator().manual_seed(0)
    object_, ground = torch.randn(2, 12, generator=g) + 3
    features = [
        torch.where(truth.flatten()[:, None], object_, ground)
        + 0.1 * torch.randn(48, 12, generator=g)
        for _ in range(2)
    ]
    split = fit_border_split(features, [(6, 8)] * 2)
    for one in features:
        assert torch.equal(split.inside(one).reshape(6, 8), truth)


def test_moments_do_not_depend_on_the_batches():
    together, apart = Moments(), Moments()
    features = torch.cat(_features())
    together.add(features)
    for part in features.split(7):
        apart.add(part)
    torch.testing.assert_close(together.components(3)[0], apart.components(3)[0])


def test_components_do_not_depend_on_the_scale():
    features, small, large = torch.cat(_features()).double(), Moments(), Moments()
    small.add(1e-6 * features)
    large.add(1e6 * features)
    for ours, theirs in zip(small.components(3), large.components(3), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_directions_without_variance_are_zero():
    moments = Moments()
    moments.add(torch.linspace(-1, 2, 50)[:, None] * torch.tensor([3.0, 0.1, -4.0]) + 7)
    directions, shares = moments.components(2)
    along = torch.tensor([-3.0, -0.1, 4.0]).double()
    torch.testing.assert_close(directions[0], along / along.norm(), atol=1e-6, rtol=0)
    assert not directions[1].any()
    torch.testing.assert_close(shares, torch.tensor([1.0, 0.0]).double())
