"""The projection head: how it begins, and the length of what it compares."""

import pytest
import torch
from torch import Tensor

from dino_cli.core.training.head import DinoHead


def test_initialisation_is_the_references() -> None:
    torch.manual_seed(0)
    head = DinoHead(64, 500, hidden_dim=96, bottleneck_dim=32, norm_last_layer=False)
    for name, parameter in head.mlp.named_parameters():
        if name.endswith("bias"):
            assert not parameter.any()
        else:
            assert parameter.std().item() == pytest.approx(0.02, rel=0.05), name
    assert (head.last_layer.weight_g == 1).all()
    assert head.last_layer.weight_g.requires_grad
    direction = head.last_layer.weight_v  # PyTorch's own default for a Linear
    assert direction.abs().max().item() == pytest.approx(1 / 32**0.5, rel=0.01)


@pytest.mark.parametrize("half", [False, True])
def test_logits_are_cosines_to_the_prototypes(half: bool) -> None:
    torch.manual_seed(0)
    head = DinoHead(64, 50, hidden_dim=96, bottleneck_dim=32)
    seen: list[Tensor] = []
    head.last_layer.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    with torch.autocast("cpu", torch.bfloat16, enabled=half):
        logits = head(torch.randn(7, 64))
    assert seen[0].dtype == torch.float32
    torch.testing.assert_close(seen[0].norm(dim=-1), torch.ones(7))
    unit = head.last_layer.weight_v / head.last_layer.weight_v.norm(dim=-1, keepdim=True)
    torch.testing.assert_close(
        logits.float(), seen[0] @ unit.T, atol=5e-3 if half else 1e-6, rtol=0
    )
