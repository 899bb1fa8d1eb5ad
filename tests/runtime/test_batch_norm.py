"""Batch norm that goes over several processes computes what the network's own does."""

import copy
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import timm
import torch
from torch import nn

from dino_cli.errors import UsageError
from dino_cli.runtime import Ranks
from dino_cli.runtime.batch_norm import RankBatchNorm, with_rank_batch_norm

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


class Meeting:
    """Threads that reduce together, as processes do."""

    def __init__(self, count):
        self.count, self.meeting, self.values = count, threading.Barrier(count), {}

    def all_reduce(self, tensor):
        self.values[threading.current_thread().name] = tensor.clone()
        self.meeting.wait(30)
        total = sum(self.values[name] for name in sorted(self.values))
        self.meeting.wait(30)
        tensor.copy_(total)

    def run(self, work):
        """What `work(rank)` returns for each rank."""
        with ThreadPoolExecutor(self.count, thread_name_prefix="rank") as pool:
            return list(pool.map(work, range(self.count)))


@pytest.mark.parametrize("momentum", [0.1, 0.3])
def test_norms_of_all_ranks_are_those_of_the_whole_batch(monkeypatch, momentum):
    """Outputs, gradients and running statistics, with means that dwarf the deviations."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(8, 3, 4, 5, generator=generator) + 100
    wanted = torch.randn(x.shape, generator=generator)
    whole = nn.BatchNorm2d(3, momentum=momentum).double()
    with torch.no_grad():
        whole.weight.copy_(torch.tensor([0.5, 1.0, 2.0]))
        whole.bias.copy_(torch.tensor([-1.0, 0.0, 1.0]))
    olds = [nn.Sequential(copy.deepcopy(whole).float()) for _ in range(2)]
    weights = [old[0].weight for old in olds]
    layers = [with_rank_batch_norm(old) for old in olds]
    assert all(layer[0].weight is weight for layer, weight in zip(layers, weights, strict=True))
    inputs = [part.clone().requires_grad_() for part in x.chunk(2)]
    ranks = Meeting(2)
    monkeypatch.setattr(torch.distributed, "all_reduce", ranks.all_reduce)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)

    def work(rank):
        y = layers[rank](inputs[rank])
        (y * wanted.chunk(2)[rank]).sum().backward()
        return y.detach()

    found = torch.cat(ranks.run(work))
    given = x.double().requires_grad_()
    expected = whole(given)
    (expected * wanted).sum().backward()
    torch.testing.assert_close(found.double(), expected.detach(), rtol=1e-3, atol=1e-4)
    gradient = torch.cat([part.grad for part in inputs]).double()
    torch.testing.assert_close(gradient, given.grad, rtol=1e-3, atol=1e-4)
    # Each rank has the gradients of its own images, which DDP averages.
    added = sum(layer[0].weight.grad for layer in layers).double()
    torch.testing.assert_close(added, whole.weight.grad, rtol=1e-3, atol=1e-3)
    for layer in layers:
        for name, value in whole.named_buffers():
            kept = getattr(layer[0], name).to(value.dtype)
            torch.testing.assert_close(kept, value, rtol=1e-4, atol=1e-5, msg=name)
    frozen = with_rank_batch_norm(nn.Sequential(nn.BatchNorm2d(3)).eval())
    assert not frozen[0].training
    assert torch.equal(frozen(x), nn.BatchNorm2d(3).eval()(x))
