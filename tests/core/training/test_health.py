"""Figures that tell collapse from health, on batches whose answers are known."""

import math

import pytest
import torch

from dino_cli.core.training.health import effective_rank, measure_health, update_ratio

K = 8
CENTRE = torch.full((1, K), 0.5)


def health(targets, features=None):
    features = torch.randn(len(targets), 4) if features is None else features
    return measure_health(targets, features, CENTRE)


def test_entropies_of_healthy_uniform_and_one_hot_targets():
    healthy = health(torch.eye(K))
    assert healthy.entropy == 0
    assert healthy.spread.item() == pytest.approx(math.log(K))
    assert healthy.prototypes.item() == pytest.approx(K)
    uniform = health(torch.full((K, K), 1 / K))
    assert uniform.entropy.item() == pytest.approx(math.log(K))
    assert uniform.spread.item() == pytest.approx(0, abs=1e-6)
    point = health(torch.eye(K)[[3] * K])
    assert (point.entropy.item(), point.spread.item(), point.target_kl.item()) == (0, 0, 0)
    assert point.prototypes.item() == pytest.approx(1)
    assert point.centre_norm.item() == pytest.approx(0.5 * K**0.5)


def test_divergence_between_the_two_views_of_an_image():
    torch.manual_seed(0)
    targets = torch.rand(6, K).softmax(dim=-1)
    expected = (
        sum(
            p * math.log(p / q)
            for first, second in zip(targets[:3].tolist(), targets[3:].tolist(), strict=True)
            for p, q in zip(first, second, strict=True)
        )
        / 3
    )
    assert health(targets).target_kl.item() == pytest.approx(expected, rel=1e-5)
    same = torch.cat([targets[:3], targets[:3]])
    assert health(same).target_kl.item() == pytest.approx(0, abs=1e-6)


def test_standard_deviation_tells_a_point_from_an_even_spread():
    torch.manual_seed(0)
    targets = torch.full((512, K), 1 / K)
    spread = torch.randn(512, 64)
    assert health(targets, spread).feature_std.item() == pytest.approx(1, abs=0.02)
    assert health(targets, spread[:1].expand(512, -1)).feature_std.item() == pytest.approx(0)


def test_effective_rank():
    torch.manual_seed(0)
    line = torch.randn(64, 1) @ torch.randn(1, 16) + 5  # the mean does not count
    assert effective_rank(line).item() == pytest.approx(1, abs=0.01)
    axes = torch.cat([torch.eye(16), -torch.eye(16)])
    assert effective_rank(axes).item() == pytest.approx(16, rel=1e-4)
    assert effective_rank(torch.ones(4, 3)).item() == 1
    assert math.isnan(effective_rank(torch.full((4, 3), float("nan"))).item())


def test_effective_rank_of_unequal_directions_is_of_their_lengths_not_of_their_variances():
    """Singular values 3 and 1: exp of the entropy of 3/4 and 1/4."""
    features = torch.tensor([[3.0, 0.0], [-3.0, 0.0], [0.0, 1.0], [0.0, -1.0]]) + 7
    entropy = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    assert effective_rank(features).item() == pytest.approx(math.exp(entropy), rel=1e-5)


def test_a_rank_that_cannot_be_computed_is_no_number(monkeypatch):
    def fail(_):
        raise torch.linalg.LinAlgError("the algorithm failed to converge")

    monkeypatch.setattr(torch.linalg, "svdvals", fail)
    assert math.isnan(health(torch.eye(K)).feature_rank.item())


def test_update_ratio_is_of_all_tensors_together():
    before = [torch.tensor([3.0]), torch.tensor([[0.0, 4.0]])]
    after = [torch.tensor([3.3]), torch.tensor([[0.4, 4.0]])]
    assert update_ratio(before, after).item() == pytest.approx(0.5 / 5)
