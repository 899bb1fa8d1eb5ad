"""Features of every kind from one pass, against hooks on the blocks and the original's formulas."""

from collections.abc import Callable
from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dino_cli.core.network.architecture import VitArchitecture
from dino_cli.core.network.backbone import Backbone
from dino_cli.core.network.features import KINDS, Extractor, Kind
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
def oracle(net: nn.Module, x: Tensor, prefix: int, layer: int | None = None) -> dict[str, Tensor]:
    """Token by token, from what hooks see; of a block, or of the network's own output."""
    outputs, normed = [], []
    block = net.blocks[-1 if layer is None else layer]
    hooks = [b.register_forward_hook(lambda _m, _a, out: outputs.append(out)) for b in net.blocks]
    hooks.append(block.norm1.register_forward_hook(lambda _m, _a, out: normed.append(out)))
    final = net.forward_features(x)
    for hook in hooks:
        hook.remove()
    if layer is not None:
        outputs = outputs[: layer % len(outputs) + 1]
        final = net.norm(outputs[-1])
    weight, bias = block.attn.qkv.weight, block.attn.qkv.bias
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


@pytest.mark.parametrize("layer", [0, 3, -1, -2, -5])
def test_every_kind_of_an_earlier_block(layer: int) -> None:
    net, x = network(), images(24, 40)
    expected = oracle(net, x, 1, layer)
    found = Extractor(Backbone(net), KINDS, layer=layer)(x)
    for kind in KINDS:
        tolerance = 4e-3 if kind in ("patch", "keys") else 1e-5
        torch.testing.assert_close(
            found[kind].float(), expected[kind], atol=tolerance, rtol=tolerance / 4
        )
        alone = Extractor(Backbone(net), [kind], layer=layer)(x)[kind]
        torch.testing.assert_close(alone.float(), found[kind].float(), atol=1e-5, rtol=1e-3)


def test_blocks_after_the_asked_one_are_not_computed_and_stay() -> None:
    net, x, ran = network(), images(), list[int]()
    backbone = Backbone(net)
    before = Extractor(backbone, KINDS)(x)
    for number, block in enumerate(net.blocks):
        block.register_forward_hook(lambda _m, _a, _o, number=number: ran.append(number))
    for kind in KINDS:
        Extractor(backbone, [kind], layer=1)(x)
        assert ran == [0, 1]
        ran.clear()
    assert (backbone.depth, len(net.blocks)) == (5, 5)
    assert backbone.up_to(4) is backbone.up_to(-1) is backbone
    for kind, values in Extractor(backbone, KINDS)(x).items():
        assert torch.equal(values, before[kind])
    for layer in (5, -6):
        with pytest.raises(ValueError, match=f"layer {layer} of 5 blocks"):
            Extractor(backbone, ["cls"], layer=layer)


@pytest.mark.parametrize("kind", ["cls", "keys"])  # by the network's own forward, and timm's other
def test_the_shorter_network_is_the_one_that_is_compiled(
    kind: Kind, monkeypatch: pytest.MonkeyPatch
) -> None:
    net, x, calls = network(), images(), list[int]()

    def compiled(forward: Callable[..., Any]) -> Callable[..., Any]:
        def run(*given: Any, **more: Any) -> Any:
            calls.append(1)
            return forward(*given, **more)

        return run

    monkeypatch.setattr(torch, "compile", compiled)
    backbone = Backbone(net)
    backbone.compile()  # as a command does, before it knows the layer
    found = Extractor(backbone, [kind], layer=1, compile=True)(x)[kind]
    assert calls == [1]
    assert torch.equal(found, Extractor(Backbone(net), [kind], layer=1)(x)[kind])


def test_fewer_than_four_blocks_give_what_there_is() -> None:
    for depth in (2, 1):
        net = network(depth=depth)
        found, expected = Extractor(Backbone(net), KINDS)(images()), oracle(net, images(), 1)
        torch.testing.assert_close(found["last4"], expected["last4"], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(found["keys"].float(), expected["keys"], atol=4e-3, rtol=1e-3)
        assert found["last4"].shape == (3, depth * 48)


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


@pytest.mark.parametrize(
    "name",
    [
        "vit_tiny_patch16_224",
        "vit_small_patch16_dinov3",
        "vit_small_patch16_rope_mixed_224",  # other positions in each block
        "vit_base_patch16_siglip_224",
        "vit_small_patch14_reg4_dinov2",
    ],
)
def test_an_earlier_block_is_timms_own(name: str) -> None:
    net = tiny(name, depth=4, img_size=56 if "14" in name else 64, embed_dim=48, num_heads=2)
    x = images(*(2 * net.patch_embed.img_size[:1]))
    backbone = Backbone(net)
    with torch.inference_mode():
        normed = net.forward_intermediates(
            x, [1], norm=True, intermediates_only=True, output_fmt="NLC",
            **({"return_prefix_tokens": True} if backbone.prefix_tokens else {}),
        )[0]  # fmt: skip
        patches, prefix = normed if backbone.prefix_tokens else (normed, None)
        whole = net.forward_head(patches, pre_logits=True) if prefix is None else prefix[:, 0]
    found = Extractor(backbone, ["cls", "mean"], layer=1)(x)
    torch.testing.assert_close(found["cls"], whole, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(found["mean"], patches.mean(dim=1), atol=1e-5, rtol=1e-4)


def test_convnets_have_pooled_features_only() -> None:
    net = tiny("resnet18")
    with pytest.raises(ValueError, match="layer 0 of 0 blocks"):
        Extractor(Backbone(net), ["cls"], layer=0)
    found = Extractor(Backbone(net), ["cls"])(images())
    with torch.inference_mode():
        torch.testing.assert_close(found["cls"], net(images()))
    with pytest.raises(ValueError, match="no patch tokens for features 'mean'"):
        Extractor(Backbone(net), ["mean"])(images())
    with pytest.raises(ValueError, match="no patch tokens for features 'patch'"):
        Extractor(Backbone(net), ["cls", "patch"])(images())
    with pytest.raises(ValueError, match="'keys' need the blocks of a vision transformer"):
        Extractor(Backbone(net), ["keys"])
