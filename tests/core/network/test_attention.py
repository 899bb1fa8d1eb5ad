"""CLS attention and keys of the last block, against attention that timm itself computes in full."""

import pytest
import timm
import torch
from timm.models.eva import Eva
from torch import nn

from dino_cli.core.network.architecture import VitArchitecture
from dino_cli.core.network.attention import block_input, last_cls_attention
from dino_cli.core.network.backbone import Backbone, build


def _dino(**kwargs):
    return build(
        VitArchitecture(width=24, depth=3, heads=3, patch_size=8, grid=(4, 4), **kwargs)
    ).eval()


def _rotary():
    return Eva(
        img_size=32,
        patch_size=8,
        embed_dim=32,
        depth=2,
        num_heads=2,
        num_classes=0,
        use_abs_pos_emb=False,
        use_rot_pos_emb=True,
        num_reg_tokens=2,
        dynamic_img_size=True,
    ).eval()


def _timm(name, **kwargs):
    return timm.create_model(
        name,
        patch_size=8,
        depth=2,
        embed_dim=32,
        num_heads=2,
        num_classes=0,
        dynamic_img_size=True,
        **kwargs,
    ).eval()


NETWORKS = {
    "dino": _dino,
    "registers and layer scale": lambda: _dino(
        registers=3, embed_class=False, layer_scale=True, positions="size"
    ),
    "rotary positions": _rotary,
    "rotary positions in halves": lambda: _timm("vit_small_patch16_dinov3_qkvb"),
    "query and key norm": lambda: _timm("vit_tiny_patch16_224", img_size=32, qk_norm=True),
}


@pytest.fixture(params=NETWORKS)
def net(request):
    torch.manual_seed(0)
    made = NETWORKS[request.param]()
    with torch.no_grad():  # large enough that attention is far from uniform
        for name, tensor in made.named_parameters():
            if name.endswith(("qkv.weight", "qkv.bias", "proj.weight", "q_bias")):
                tensor.normal_(0, 0.3)
    return made


def _full_attention(net: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """All rows (B, H, T, T) of the last block's softmax, by a hook on its unfused attention."""
    attn = net.blocks[-1].attn
    fused, attn.fused_attn = attn.fused_attn, False
    seen = []
    handle = attn.attn_drop.register_forward_hook(lambda _m, _a, out: seen.append(out))
    with torch.no_grad():
        net.forward_features(x)
    handle.remove()
    attn.fused_attn = fused
    return seen[0]


@pytest.mark.parametrize("size", [(32, 32), (24, 40)])
def test_cls_row_equals_full_attention(net, size):
    backbone = Backbone(net)
    x = torch.randn(2, 3, *size)
    full = _full_attention(net, x)
    rows = backbone.cls_attention(x)
    h, w = size[0] // 8, size[1] // 8
    assert rows.shape == (2, backbone.heads, h, w)
    expected = full[:, :, 0, backbone.prefix_tokens :]
    torch.testing.assert_close(rows.flatten(2), expected, rtol=1e-5, atol=1e-6)
    assert rows.flatten(2).amax(-1).mean() > 2 / (h * w)  # not uniform, so the test means something
    assert (rows.flatten(2).sum(-1) < 1).all()  # prefix columns took their share


def test_keys_come_with_their_bias_and_the_same_attention(net):
    backbone = Backbone(net)
    x = torch.randn(2, 3, 24, 32)
    seen = []
    attn = net.blocks[-1].attn
    handle = attn.register_forward_pre_hook(lambda _m, args: seen.append(args[0]))
    with torch.no_grad():
        net.forward_features(x)
    handle.remove()
    attention, keys = backbone.cls_attention_and_keys(x)
    torch.testing.assert_close(attention, backbone.cls_attention(x), rtol=0, atol=0)
    width = keys.shape[-1]
    weight = attn.qkv.weight[width : 2 * width]
    bias = attn.qkv.bias[width : 2 * width] if attn.qkv.bias is not None else attn.k_bias
    expected = seen[0] @ weight.T + bias
    if not isinstance(attn.k_norm, nn.Identity):
        expected = attn.k_norm(expected.unflatten(-1, (attn.num_heads, -1))).flatten(-2)
    torch.testing.assert_close(
        keys, expected[:, backbone.prefix_tokens :].detach(), rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize("layer", [0, -1])
def test_a_patch_asks_in_any_block(net, layer):
    backbone = Backbone(net)
    x = torch.randn(2, 3, 24, 40)
    attn = net.blocks[layer].attn
    fused, attn.fused_attn = attn.fused_attn, False
    rows, inputs = [], []
    handles = [
        attn.attn_drop.register_forward_hook(lambda _m, _a, out: rows.append(out)),
        attn.register_forward_pre_hook(lambda _m, args: inputs.append(args[0])),
    ]
    with torch.no_grad():
        tokens = net.forward_features(x)
    for handle in handles:
        handle.remove()
    attn.fused_attn = fused
    asking = torch.tensor([0, 13])  # of 3 × 5 patches
    prefix = backbone.prefix_tokens
    expected = torch.stack([rows[0][i, :, prefix + p, prefix:] for i, p in enumerate(asking)])
    heads, keys = backbone.cls_attention_and_keys(x, layer=layer, asking=asking)
    torch.testing.assert_close(heads.flatten(2), expected, rtol=1e-5, atol=1e-6)
    _, of_cls = backbone.cls_attention_and_keys(x, layer=layer)
    torch.testing.assert_close(keys, of_cls, rtol=0, atol=0)
    three = backbone.attention_keys_and_tokens(x, layer=layer, asking=asking)
    torch.testing.assert_close(three[0], heads)
    torch.testing.assert_close(three[1], keys)
    torch.testing.assert_close(three[2], tokens[:, prefix:])
    torch.testing.assert_close(backbone.patch_tokens(x), tokens[:, prefix:])


def test_a_network_without_class_token_has_blocks_to_ask():
    net = timm.create_model(
        "vit_tiny_patch16_224", img_size=32, patch_size=8, depth=2, embed_dim=32, num_heads=2,
        num_classes=0, class_token=False, global_pool="avg", dynamic_img_size=True,
    ).eval()  # fmt: skip
    backbone = Backbone(net)
    assert (backbone.has_attention, backbone.has_blocks, backbone.depth) == (False, True, 2)
    assert backbone.heads == 2
    heads, keys = backbone.cls_attention_and_keys(
        torch.randn(1, 3, 32, 48), asking=torch.tensor([23])
    )
    assert heads.shape == (1, 2, 4, 6)
    torch.testing.assert_close(heads.sum((-1, -2)), torch.ones(1, 2))
    assert keys.shape == (1, 24, 32)


def test_logits_are_not_rounded_under_autocast():
    torch.manual_seed(0)
    net = _dino()
    block = net.blocks[-1]
    block.attn.qkv.weight.data.normal_(0, 0.6)
    x = torch.randn(1, 3, 32, 32)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        with block_input(net, stop=True) as seen:
            net.forward_features(x)
        row = last_cls_attention(net, x)
    normed = block.norm1(seen[0][0].float())
    q, k, _ = block.attn.qkv(normed).detach().double().unflatten(-1, (3, 3, 8)).unbind(2)
    logits = torch.einsum("bhd,bnhd->bhn", q[:, 0], k) / 8**0.5
    assert row.dtype == torch.float32
    assert logits.abs().max() > 5  # where bfloat16 would round by up to .015
    torch.testing.assert_close(row.double(), logits.softmax(-1), rtol=1e-4, atol=1e-6)


def test_forward_hooks_are_gone_afterwards():
    net = _dino()
    backbone = Backbone(net)
    x = torch.randn(1, 3, 32, 32)
    before = backbone.features(x)
    backbone.cls_attention_and_keys(x)
    backbone.last_tokens(x, 2)
    assert not net.blocks[-1]._forward_pre_hooks
    assert not any(block._forward_hooks for block in net.blocks)
    torch.testing.assert_close(backbone.features(x), before, rtol=0, atol=0)


def test_nothing_is_computed_after_the_block_that_is_asked():
    net = _dino()
    ran = []
    for part in (*net.blocks, net.norm):
        part.register_forward_hook(lambda module, _a, _o: ran.append(module))
    Backbone(net).cls_attention_and_keys(torch.randn(1, 3, 32, 32), layer=1)
    assert ran == [net.blocks[0]]


def test_tokens_of_the_last_blocks_are_normed_oldest_first():
    net = _dino()
    seen = []
    for block in net.blocks:
        block.register_forward_hook(lambda _m, _a, out: seen.append(out))
    found = Backbone(net).last_tokens(torch.randn(2, 3, 32, 32), 2)
    assert len(found) == 2
    with torch.inference_mode():
        for tokens, out in zip(found, seen[1:], strict=True):
            torch.testing.assert_close(tokens, net.norm(out))


@pytest.mark.parametrize(("before", "compiled"), [(-1, [0, 1]), (1, [0])])
def test_blocks_before_the_one_that_is_asked_are_compiled(monkeypatch, before, compiled):
    net, done = _dino(), []
    monkeypatch.setattr(nn.Module, "compile", lambda module: done.append(module))
    Backbone(net).compile_blocks(before)
    assert done == [net.blocks[i] for i in compiled]


@pytest.mark.parametrize("name", ["resnet10t", "xcit_nano_12_p16_224", "mixer_s32_224"])
def test_networks_without_patch_attention_are_known(name):
    with torch.device("meta"):
        net = timm.create_model(name, num_classes=0)
    assert not Backbone(net).has_attention
    assert Backbone(net).heads == 0
    net.blocks = nn.Sequential()
    assert not Backbone(net).has_blocks


def test_a_convnets_patch_is_its_whole_stride():
    with torch.device("meta"):
        net = timm.create_model("resnet10t", num_classes=0).train()
    assert Backbone(net).patch_size == 32
    assert not net.training  # it is asked as it is used
