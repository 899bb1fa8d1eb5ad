"""Stochastic depth: what its masks come from, and which samples they drop."""

from functools import partial

import pytest
import torch
from small_networks import networks, state, views
from timm.layers import DropPath as TimmDropPath
from torch import nn
from torch.utils.checkpoint import checkpoint as repeated

from dino_cli.core.training.droppath import DropPath, draw_masks
from dino_cli.core.training.multicrop import MultiCrop
from dino_cli.core.training.step import StepValues, Views, train_step

AT = StepValues(
    lr=0.1, weight_decay=0.1, momentum=0.9, teacher_temperature=0.05, freeze_last_layer=False
)


def test_drop_path_masks_depend_on_the_key_and_not_on_the_ranks():
    rates = [0.0, 0.3, 0.6]
    whole = draw_masks(rates, key=(1, 2, 0), views=2, images=8, share=slice(0, 8))
    parts = [
        draw_masks(rates, key=(1, 2, 0), views=2, images=8, share=slice(i, i + 4)) for i in (0, 4)
    ]
    joined = torch.cat([part.unflatten(1, (2, 4)) for part in parts], dim=2).flatten(1)
    assert torch.equal(joined, whole)
    other = draw_masks(rates, key=(1, 3, 0), views=2, images=8, share=slice(0, 8))
    assert not torch.equal(other, whole)
    many = draw_masks(rates, key=(0,), views=10, images=20000, share=slice(0, 20000))
    assert (many == 0).float().mean(dim=1).tolist() == pytest.approx(rates, abs=0.004)
    assert many.mean(dim=1).tolist() == pytest.approx([1.0] * 3, abs=0.01)


def test_masks_are_those_of_earlier_versions():
    """Drawn once: a run that an older version began goes on as it would have."""
    masks = draw_masks([0.25, 0.5], key=(3, 7, 0, 1), views=2, images=4, share=slice(None))
    kept = [[0, 1, 1, 0, 1, 0, 1, 1], [1, 0, 0, 0, 0, 1, 0, 0]]
    torch.testing.assert_close(masks, torch.tensor(kept) / torch.tensor([[0.75], [0.5]]))


def test_drop_path_scales_samples_of_the_residual_branches():
    n = networks(drop_path=0.5)
    layers = n.student.drop_paths
    assert [layer.rate for layer in layers] == pytest.approx([0.5, 0.5])  # the first block has none
    batch = views()
    plain = n.student(batch.groups)
    masks = [torch.zeros(len(layers), len(group)) for group in batch.groups]
    dropped = n.student(batch.groups, masks)
    assert not torch.allclose(plain, dropped)
    layer = DropPath(0.5)
    layer.use(torch.tensor([0.0, 2.0]))
    assert layer(torch.ones(2, 3)).tolist() == [[0] * 3, [2] * 3]
    assert layer(torch.ones(2, 5)).tolist() == [[0] * 5, [2] * 5]  # called again in the same pass
    layer.use(torch.tensor([0.0, 2.0]))  # two windows of each sample
    assert layer(torch.ones(4, 3)).tolist() == [[0] * 3, [0] * 3, [2] * 3, [2] * 3]
    assert layer.eval()(torch.ones(2, 3)).tolist() == [[1] * 3, [1] * 3]


def test_checkpointed_activations_repeat_their_own_masks():
    results = []
    for checkpoint in (False, True):
        n = networks("sgd", drop_path=0.5)
        n.student.backbone.set_grad_checkpointing(checkpoint)
        batch = views()
        masks = [
            draw_masks([0.5, 0.5], key=(i,), views=v, images=4, share=slice(0, 4))
            for i, v in enumerate((2, 3))
        ]
        train_step(n, [Views(groups=batch.groups, masks=masks)], AT, clip_grad=3.0)
        results.append(state(n))
    for name, tensor in results[0].items():
        torch.testing.assert_close(results[1][name], tensor, msg=name)


@pytest.mark.parametrize("again", [False, True])
def test_a_layer_that_a_network_calls_at_several_shapes_drops_at_each(again):
    """Also where local views have a shape that global ones have elsewhere, unless repeated."""

    class Pyramid(nn.Module):
        def __init__(self):
            super().__init__()
            self.drop_path, self.weight = TimmDropPath(0.5), nn.Parameter(torch.ones(()))

        def branch(self, x):
            return self.drop_path(x * self.weight).mean(dim=(1, 2, 3))

        def forward(self, x):
            call = partial(repeated, self.branch, use_reentrant=False) if again else self.branch
            return torch.stack([call(x), call(x[..., ::2, ::2])], dim=1)

    student = MultiCrop(Pyramid().train(), nn.Identity())
    sides = (8, 6) if again else (8, 4)
    for step in range(2):
        masks = [torch.tensor([[0.0, 2.0]]), torch.tensor([[2.0, 0.0, 2.0 * step]])]
        found = student([torch.ones(n, 1, s, s) for n, s in zip((2, 3), sides, strict=True)], masks)
        wanted = torch.cat([mask[0] for mask in masks])
        assert found.tolist() == [[value, value] for value in wanted.tolist()]
        student.backbone.weight.grad = None
        (found * torch.arange(5.0)[:, None]).sum().backward()
        assert student.backbone.weight.grad == 2 * (wanted * torch.arange(5.0)).sum()
