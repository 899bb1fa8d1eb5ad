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


def test_colours_span_the_quantiles_and_keep_the_order():
    features = _features()
    found = fit_components(features, [torch.ones(30, dtype=torch.bool)] * 4)
    colours = torch.cat([found.colours(one) for one in features])
    places = torch.cat([found.project(one) for one in features])
    assert colours.min() == 0
    assert colours.max() == 1
    for channel in range(3):
        order = places[:, channel].argsort()
        assert (colours[order, channel].diff() >= 0).all()
        assert 0 < (colours[:, channel] == 1).float().mean() < 0.05


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
    assert fit_components(few, [torch.ones(n, dtype=torch.bool)]).colours(few[0]).isfinite().all()


def test_border_split_takes_what_is_in_the_middle():
    truth = torch.zeros(6, 8, dtype=torch.bool)
    truth[2:5, 2:6] = True
    g = torch.Generator().manual_seed(0)
    object_, ground = torch.randn(2, 12, generator=g)
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
