"""Masks that keep a share of the attention, against the rule written out."""

import pytest
import torch

from dino_cli.core.masks.threshold import threshold_mass


def _slow_threshold(values: list[float], share: float) -> list[bool]:
    order = sorted(range(len(values)), key=lambda i: values[i])
    kept, cumulative = [False] * len(values), 0.0
    for i in order:
        cumulative += values[i] / sum(values)
        kept[i] = cumulative > 1 - share
    return kept


@pytest.mark.parametrize("share", [0.01, 0.3, 0.6, 0.95])
def test_threshold_equals_the_rule_written_out(share):
    maps = torch.rand(3, 4, 5, 7, generator=torch.Generator().manual_seed(1)).double() ** 4
    masks = threshold_mass(maps, share)
    assert masks.shape == maps.shape
    for values, mask in zip(maps.flatten(0, 1), masks.flatten(0, 1), strict=True):
        assert mask.flatten().tolist() == _slow_threshold(values.flatten().tolist(), share)


def test_threshold_keeps_the_fewest_patches_with_the_share():
    maps = torch.rand(6, 9, 9, generator=torch.Generator().manual_seed(2)).double() ** 3
    maps = maps / maps.sum((-1, -2), keepdim=True)
    for values, mask in zip(maps, threshold_mass(maps, 0.6), strict=True):
        kept = values[mask]
        assert kept.sum() >= 0.6
        assert kept.sum() - kept.min() < 0.6
        assert kept.min() >= values[~mask].max()


def test_threshold_of_everything_keeps_every_attended_patch():
    values = torch.tensor([[0.0, 0.2], [0.3, 0.5]])
    assert threshold_mass(values, 1.0).tolist() == [[False, True], [True, True]]


def test_threshold_of_equal_patches():
    values = torch.full((4, 5), 0.05).double()
    assert int(threshold_mass(values, 0.59).sum()) == 12  # 11 would hold .55


@pytest.mark.parametrize("share", [0.0, -0.1, 1.1, float("nan")])
def test_threshold_refuses_shares_outside_0_to_1(share):
    with pytest.raises(ValueError, match="share"):
        threshold_mass(torch.rand(3, 3), share)
