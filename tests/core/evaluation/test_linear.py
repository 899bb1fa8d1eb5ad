"""Linear classifiers against torch's own layers, optimizer and schedule."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from dino_cli.core.evaluation.linear import (
    LinearClassifiers,
    cosine_rate,
    linear_features,
    top_hits,
)


def test_several_classifiers_train_as_several_optimizers_would():
    torch.manual_seed(0)
    rates = [0.5, 0.02, 1.3]
    together = LinearClassifiers.fresh(len(rates), 4, 6, seed=3, device=torch.device("cpu"))
    alone = []
    for i, rate in enumerate(rates):
        layer = nn.Linear(6, 4)
        layer.weight.data, layer.bias.data = together.weight[i].clone(), together.bias[i].clone()
        alone.append((layer, torch.optim.SGD(layer.parameters(), rate, momentum=0.9)))
    for step in range(7):
        x, y = torch.randn(5, 6), torch.randint(4, (5,))
        scale = 1 / (step + 1)
        losses = together.step(x, y, torch.tensor(rates) * scale)
        for i, (layer, optimizer) in enumerate(alone):
            optimizer.param_groups[0]["lr"] = rates[i] * scale
            loss = F.cross_entropy(layer(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            assert float(losses[i]) == pytest.approx(loss.item(), rel=1e-5)
            torch.testing.assert_close(together.weight[i], layer.weight.data)
            torch.testing.assert_close(together.bias[i], layer.bias.data)
    assert not torch.allclose(together.weight[0], together.weight[1], atol=1e-3)


def test_fresh_weights_are_small_normal_and_the_seed_decides():
    device = torch.device("cpu")
    one = LinearClassifiers.fresh(2, 50, 200, seed=1, device=device)
    assert float(one.weight.std()) == pytest.approx(0.01, rel=0.03)
    assert not one.bias.any()
    torch.testing.assert_close(one.weight[0], one.weight[1])
    torch.testing.assert_close(
        one.weight, LinearClassifiers.fresh(2, 50, 200, seed=1, device=device).weight
    )
    other = LinearClassifiers.fresh(2, 50, 200, seed=2, device=device)
    assert not torch.allclose(one.weight, other.weight)


def test_the_rate_follows_torchs_cosine():
    layer = nn.Linear(1, 1)
    optimizer = torch.optim.SGD(layer.parameters(), 0.3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 9, eta_min=0)
    for epoch in range(9):
        assert cosine_rate(0.3, epoch, 9) == pytest.approx(schedule.get_last_lr()[0], rel=1e-9)
        optimizer.step()
        schedule.step()


def test_average_pooling_is_interleaved():
    tokens = torch.arange(2 * 5 * 3, dtype=torch.float32).reshape(2, 5, 3)
    features = linear_features([tokens], 2, avgpool=True)
    cls, mean = tokens[:, 0], tokens[:, 2:].mean(dim=1)
    for d in range(3):
        assert features[:, 2 * d].tolist() == cls[:, d].tolist()
        assert features[:, 2 * d + 1].tolist() == mean[:, d].tolist()
    plain = linear_features([tokens, 10 * tokens], 2, avgpool=False)
    assert plain.tolist() == torch.cat([cls, 10 * cls], dim=1).tolist()
    for avgpool in (True, False):
        half = linear_features([tokens.bfloat16()], 2, avgpool=avgpool)
        assert half.dtype == torch.float32
    with pytest.raises(ValueError, match="one block"):
        linear_features([tokens, tokens], 2, avgpool=True)


def test_hits_are_those_of_topk_and_ties_go_to_the_lower_class():
    torch.manual_seed(1)
    logits, labels = torch.randn(3, 40, 9), torch.randint(9, (40,))
    hits = top_hits(logits, labels)
    best = logits.topk(5).indices
    assert (hits.top1 == (best[..., 0] == labels)).all()
    assert (hits.top5 == (best == labels[:, None]).any(dim=-1)).all()
    same = top_hits(torch.zeros(1, 9), torch.tensor([0]))
    assert same.top1.tolist() == [True]
    later = top_hits(torch.zeros(2, 9), torch.tensor([1, 5]))
    assert (later.top1.tolist(), later.top5.tolist()) == ([False, False], [True, False])
