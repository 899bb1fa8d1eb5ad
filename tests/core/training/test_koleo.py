"""The regulariser against every pair of images, and what it does to features."""

import math

import torch
from torch import Tensor

from dino_cli.core.training.health import effective_rank
from dino_cli.core.training.koleo import koleo_loss


def by_pairs(features: Tensor, views: int) -> Tensor:
    """The nearest other image of each, sought one by one in double precision."""
    total = torch.zeros((), dtype=torch.float64)
    for view in features.double().chunk(views):
        unit = [row / row.norm() for row in view]
        for i, own in enumerate(unit):
            others = [(own - other).norm() for j, other in enumerate(unit) if j != i]
            total = total - (min(others) + 1e-8).log() / len(unit)
    return total


def test_loss_and_gradient_are_those_of_the_nearest_others() -> None:
    features = torch.randn(2 * 7, 5, generator=torch.Generator().manual_seed(0))
    ours, theirs = (features.clone().requires_grad_() for _ in range(2))
    loss, expected = koleo_loss(ours, views=2), by_pairs(theirs, views=2)
    loss.backward()
    expected.backward()
    torch.testing.assert_close(loss, expected.float(), rtol=1e-6, atol=0)
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-4, atol=1e-6)


def test_two_images_are_compared_with_each_other_however_far() -> None:
    """Opposite ones are as far from each other as can be, and no image is its own neighbour."""
    opposite = torch.tensor([[3.0, 4.0], [-6.0, -8.0]])
    torch.testing.assert_close(koleo_loss(opposite, views=1), torch.tensor(-math.log(2)))


def test_short_features_in_half_precision_are_reckoned_in_full() -> None:
    features = (1e-3 * torch.randn(2 * 7, 5, generator=torch.Generator().manual_seed(0))).bfloat16()
    loss = koleo_loss(features, views=2)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, by_pairs(features, views=2).float(), rtol=1e-6, atol=0)


def test_twins_have_a_finite_loss_and_gradient() -> None:
    features = torch.ones(4, 3).requires_grad_()
    loss = koleo_loss(features, views=1)
    loss.backward()
    assert math.isfinite(loss.item())
    assert features.grad is not None
    assert features.grad.isfinite().all()


def test_features_on_a_line_spread_over_all_dimensions() -> None:
    generator = torch.Generator().manual_seed(1)
    line = torch.randn(64, 1, generator=generator) * torch.randn(1, 16, generator=generator)
    features = (line + 0.01 * torch.randn(64, 16, generator=generator)).requires_grad_()
    optimizer = torch.optim.Adam([features], lr=0.02)
    before = effective_rank(features.detach())
    for _ in range(200):
        optimizer.zero_grad()
        koleo_loss(features, views=1).backward()
        optimizer.step()
    assert before < 3
    assert effective_rank(features.detach()) > 12
