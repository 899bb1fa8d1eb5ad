"""Batch norm that goes over several processes computes what the network's own does."""

import pytest
import timm
import torch
from torch import nn

from dino_cli.errors import UsageError
from dino_cli.runtime import Ranks
from dino_cli.runtime.batch_norm import RankBatchNorm

CPU = torch.device("cpu")


@pytest.mark.parametrize("name", ["regnety_002", "mobilenetv3_small_050", "resnet18"])
def test_a_network_keeps_its_activations(name):
    torch.manual_seed(0)
    net = timm.create_model(name, num_classes=0).eval()
    names = list(net.state_dict())
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        before = net(x)
        net = Ranks(count=2).synchronize_batch_norm(net, CPU)
        after = net(x)
    assert any(isinstance(layer, RankBatchNorm) for layer in net.modules())
    torch.testing.assert_close(after, before)
    assert list(net.state_dict()) == names


def test_a_batch_norm_that_may_do_more_is_refused():
    class Own(nn.BatchNorm2d):
        pass

    with pytest.raises(UsageError, match="batch norm of its own kind"):
        Ranks(count=2).synchronize_batch_norm(nn.Sequential(Own(3)), CPU)
