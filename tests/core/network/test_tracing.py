"""What is exported, run as it is, against the backbone; the tracer's result is tested elsewhere."""

from dataclasses import replace

import pytest
import timm
import torch
import torch.nn.functional as F

from dino_cli.core.network.architecture import VitArchitecture
from dino_cli.core.network.backbone import Backbone, build
from dino_cli.core.network.tracing import Exportable, resampling

VIT = VitArchitecture(width=32, depth=2, heads=2, patch_size=8, grid=(4, 6))
VITS = {
    "dino": VIT,
    "size": replace(VIT, positions="size"),
    "timm": replace(VIT, positions="timm", registers=3),
    "registers": replace(VIT, positions="timm", registers=3, embed_class=False),
}


def _network(name):
    torch.manual_seed(0)
    if name in VITS:
        net = build(VITS[name])
    else:
        net = timm.create_model(
            "vit_small_patch16_dinov3", patch_size=8, embed_dim=32, depth=2, num_heads=2,
            num_classes=0, dynamic_img_size=True,
        )  # fmt: skip
    with torch.no_grad():  # large enough that positions matter
        for parameter in net.parameters():
            parameter.normal_(0, 0.2)
    return net.eval()


@pytest.mark.parametrize("size", [(4, 6), (4, 9), (7, 6), (2, 3), (12, 5)])
@pytest.mark.parametrize("name", [*VITS, "rotary"])
def test_what_is_exported_computes_what_the_backbone_does(name, size):
    net = _network(name)
    backbone = Backbone(net)
    x = torch.randn(2, 3, *(8 * side for side in size))
    tokens, expected = backbone.tokens(x), backbone.cls_attention(x)
    mean = tokens[:, backbone.prefix_tokens :].mean(dim=1)
    with torch.inference_mode():
        features, attention = Exportable(net, kind="cls+mean", attention=True)(x)
        plain = Exportable(net)(x)
        grid = Exportable(net, kind="patch")(x)
    torch.testing.assert_close(features, torch.cat([tokens[:, 0], mean], dim=1), **CLOSE)
    torch.testing.assert_close(plain, tokens[:, 0], **CLOSE)
    torch.testing.assert_close(attention, expected, **CLOSE)
    torch.testing.assert_close(grid, backbone.patch_tokens(x).unflatten(1, size), **CLOSE)


CLOSE = {"rtol": 1e-4, "atol": 1e-4}


@pytest.mark.parametrize("registers", [0, 4])
def test_without_class_token_it_pools_as_timm_does(registers):
    torch.manual_seed(0)
    net = timm.create_model(
        "vit_little_patch16_reg4_gap_256", patch_size=8, embed_dim=32, depth=2, num_heads=2,
        num_classes=0, dynamic_img_size=True, reg_tokens=registers,
    ).eval()  # fmt: skip
    x = torch.randn(2, 3, 32, 48)
    with torch.inference_mode():
        pooled, tokens = net(x), net.forward_features(x)[:, registers:]
        plain, both = Exportable(net)(x), Exportable(net, kind="cls+mean")(x)
        grid = Exportable(net, kind="patch")(x)
    torch.testing.assert_close(Backbone(net).features(x), pooled, **CLOSE)
    torch.testing.assert_close(plain, pooled, **CLOSE)
    torch.testing.assert_close(both, torch.cat([pooled, tokens.mean(dim=1)], dim=1), **CLOSE)
    torch.testing.assert_close(grid, tokens.unflatten(1, (4, 6)), **CLOSE)


@pytest.mark.parametrize("positions", ["dino", "size", "timm"])
@pytest.mark.parametrize("n", [1, 2, 5, 7, 8, 23])
def test_resampling_is_torchs_bicubic_interpolation(positions, n):
    offset = 0.1 if positions == "dino" else 0.0
    size = {"scale_factor": ((n + 0.1) / 7, 1.0)} if offset else {"size": (n, 7)}
    expected = F.interpolate(
        torch.eye(7)[None, None], **size, mode="bicubic", antialias=positions == "timm"
    )[0, 0]
    ours = resampling(torch.arange(n).float(), 7, positions, torch.tensor(offset))
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-5)
