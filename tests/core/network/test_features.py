"""Features of every kind from one pass, against hooks on the blocks and the original's formulas."""

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dino_cli.core.network.architecture import VitArchitecture
from dino_cli.core.network.backbone import Backbone
from dino_cli.core.network.features import KINDS, Extractor
from dino_cli.core.network.vit import build_vit


def network(depth: int = 5) -> nn.Module:
    torch.manual_seed(0)
    net = build_vit(VitArchitecture(width=48, depth=depth, heads=3, patch_size=8, grid=(4, 4)))
    for parameter in net.parameters():  # initial weights are so small that all tokens look alike
        nn.init.normal_(parameter, std=0.15)
    return net.eval()


def images(h: int = 32, w: int = 32) -> Tensor:
    return torch.randn(3, 3, h, w, generator=torch.Generator().manual_seed(1))


@torch.inference_mode()
def oracle(net: nn.Module, x: Tensor, prefix: int) -> dict[str, Tensor]:
    """Token by token, from what hooks see."""
    outputs, normed = [], []
    hooks = [b.register_forward_hook(lambda _m, _a, out: outputs.append(out)) for b in net.blocks]
    hooks.append(net.blocks[-1].norm1.register_forward_hook(lambda _m, _a, out: normed.append(out)))
    final = net.forward_features(x)
    for hook in hooks:
        hook.remove()
    weight, bias = net.blocks[-1].attn.qkv.weight, net.blocks[-1].attn.qkv.bias
    width = weight.shape[1]
    keys = normed[0] @ weight[width : 2 * width].T + bias[width : 2 * width]
    h, w = x.shape[2] // 8, x.shape[3] // 8
    return {
        "cls": final[:, 0],
        "mean": final[:, prefix:].mean(dim=1),
        "cls+mean": torch.cat([final[:, 0], final[:, prefix:].mean(dim=1)], dim=1),
        "last4": torch.cat([net.norm(out)[:, 0] for out in outputs[-4:]], dim=1),
        "patch": final[:, prefix:].reshape(len(x), h, w, width),
        "keys": keys[:, prefix:].reshape(len(x), h, w, width),
    }


@pytest.mark.parametrize("size", [(32, 32), (24, 40)])
def test_every_kind_equals_what_hooks_see(size: tuple[int, int]) -> None:
    net, x = network(), images(*size)
    expected = oracle(net, x, 1)
    together = Extractor(Backbone(net), KINDS)(x)
    assert list(together) == list(KINDS)
    for kind in KINDS:
        alone = Extractor(Backbone(net), [kind])(x)[kind]
        grid = kind in ("patch", "keys")
        assert together[kind].dtype == (torch.float16 if grid else torch.float32)
        tolerance = 4e-3 if grid else 1e-5
        torch.testing.assert_close(
            together[kind].float(), expected[kind], atol=tolerance, rtol=tolerance / 4
        )
        torch.testing.assert_close(alone.float(), together[kind].float(), atol=1e-5, rtol=1e-3)
    assert together["last4"].shape == (3, 4 * 48)


def test_fewer_than_four_blocks_give_what_there_is() -> None:
    net = network(depth=2)
    found = Extractor(Backbone(net), ["last4", "keys"])(images())
    torch.testing.assert_close(
        found["last4"], oracle(net, images(), 1)["last4"], atol=1e-5, rtol=1e-5
    )
    assert found["last4"].shape == (3, 2 * 48)
    with pytest.raises(ValueError, match="'keys' need two blocks"):
        Extractor(Backbone(network(depth=1)), ["keys"])


def test_several_scales_are_the_originals() -> None:
    """`multi_scale` of the reference's utils, whose patch convolution drops what is no patch."""
    net, x = network(), images(40, 48)
    total = None
    for scale in (1, 1 / 2 ** (1 / 2), 1 / 2):
        scaled = x.clone()
        if scale != 1:
            scaled = F.interpolate(x, scale_factor=scale, mode="bilinear", align_corners=False)
        h, w = scaled.shape[2] // 8 * 8, scaled.shape[3] // 8 * 8
        with torch.inference_mode():
            features = net(scaled[:, :, :h, :w])
        total = features if total is None else total + features
    total /= 3
    expected = total / total.norm(dim=1, keepdim=True)
    found = Extractor(Backbone(net), ["cls"])(x, multi_scale=True)["cls"]
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-5)
    with pytest.raises(ValueError, match="'patch' have no single grid"):
        Extractor(Backbone(net), ["patch"])(x, multi_scale=True)
    with pytest.raises(ValueError, match="smaller than one patch of 8"):
        Extractor(Backbone(net), ["cls"])(x[:, :, :8], multi_scale=True)


def tiny(name: str, **arguments: object) -> nn.Module:
    torch.manual_seed(0)
    net: nn.Module = timm.create_model(name, num_classes=0, **arguments)
    return net.eval()


def test_registers_are_no_patches() -> None:
    net = tiny("vit_tiny_patch16_224", depth=5, img_size=64, reg_tokens=3, global_pool="token")
    assert Backbone(net).prefix_tokens == 4
    x = images(64, 64)
    found = Extractor(Backbone(net), ["cls", "mean", "patch", "keys"])(x)
    with torch.inference_mode():
        tokens = net.forward_features(x)
    torch.testing.assert_close(found["mean"], tokens[:, 4:].mean(dim=1), atol=1e-5, rtol=1e-4)
    assert found["patch"].shape == found["keys"].shape == (3, 4, 4, 192)


def test_rotary_positions_and_no_class_token() -> None:
    """DINOv3's kind of network, and a tower that pools by attention (SigLIP)."""
    net = tiny("vit_small_patch16_dinov3", depth=5, img_size=64, embed_dim=48, num_heads=2)
    x = images(64, 64)
    found = Extractor(Backbone(net), KINDS)(x)
    with torch.inference_mode():
        tokens = net.forward_features(x)
    torch.testing.assert_close(found["cls"], tokens[:, 0], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(found["last4"][:, -48:], tokens[:, 0], atol=1e-5, rtol=1e-4)
    assert found["keys"].shape == (3, 4, 4, 48)
    trimmed = images(70, 77)
    ours, whole = (Extractor(Backbone(net), ["cls"])(y) for y in (trimmed, trimmed[..., :64, :64]))
    torch.testing.assert_close(ours, whole)

    net = tiny("vit_base_patch16_siglip_224", depth=3, img_size=64, embed_dim=48, num_heads=2)
    found = Extractor(Backbone(net), ["cls", "mean", "patch", "keys"])(x)
    with torch.inference_mode():
        torch.testing.assert_close(found["cls"], net(x), atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(
            found["mean"], net.forward_features(x).mean(dim=1), atol=1e-5, rtol=1e-4
        )
    assert found["patch"].shape == (3, 4, 4, 48)
    with pytest.raises(ValueError, match="'last4' need a class token"):
        Extractor(Backbone(net), ["last4"])


def test_convnets_have_pooled_features_only() -> None:
    net = tiny("resnet18")
    found = Extractor(Backbone(net), ["cls"])(images())
    with torch.inference_mode():
        torch.testing.assert_close(found["cls"], net(images()))
    with pytest.raises(ValueError, match="no patch tokens for features 'mean'"):
        Extractor(Backbone(net), ["mean"])(images())
    with pytest.raises(ValueError, match="no patch tokens for features 'patch'"):
        Extractor(Backbone(net), ["cls", "patch"])(images())
    with pytest.raises(ValueError, match="'keys' need the blocks of a vision transformer"):
        Extractor(Backbone(net), ["keys"])
