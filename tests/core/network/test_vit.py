"""The network against slow oracles, and against timm where they must agree."""

import math
from dataclasses import replace

import pytest
import timm
import torch
import torch.nn.functional as F

from dino_cli.core.network.architecture import (
    TimmArchitecture,
    VitArchitecture,
    architecture_from_json,
    architecture_to_json,
)
from dino_cli.core.network.backbone import Backbone, build
from dino_cli.core.network.vit import build_vit

TINY = VitArchitecture(width=32, depth=2, heads=2, patch_size=8, grid=(4, 4))


@pytest.mark.parametrize("rows", [2, 4])
@pytest.mark.parametrize(("h", "w"), [(2, 2), (4, 4), (8, 2), (5, 9), (1, 7)])
def test_positions_are_the_references_interpolation(rows, h, w):
    """The formula of the reference's `interpolate_pos_encoding`, written out."""
    torch.manual_seed(0)
    net = build_vit(replace(TINY, grid=(rows, 4)))
    grid = net.pos_embed[:, 1:].reshape(1, rows, 4, 32).permute(0, 3, 1, 2)
    if (h, w) == (rows, 4):
        expected = net.pos_embed
    else:
        scale = ((h + 0.1) / rows, (w + 0.1) / 4)
        scaled = F.interpolate(grid, scale_factor=scale, mode="bicubic")
        assert scaled.shape[-2:] == (h, w)
        expected = torch.cat([net.pos_embed[:, :1], scaled.flatten(2).transpose(1, 2)], dim=1)
    assert torch.equal(net.position_embedding(h, w), expected)


def test_positions_of_a_grid_in_proportion_are_the_trained_ones():
    net = build_vit(replace(TINY, grid=(2, 4)))
    for width, trained in ((36, True), (34, False)):
        tokens = net.patch_embed(torch.randn(1, 3, 18, width))
        found = net._pos_embed(tokens)[:, 1:] - tokens.flatten(1, 2)
        assert torch.allclose(found, net.pos_embed[:, 1:], atol=1e-6) == trained


def test_positions_by_size_are_not_smoothed():
    net = build_vit(replace(TINY, positions="size", registers=2))
    grid = net.pos_embed[:, 3:].reshape(1, 4, 4, 32).permute(0, 3, 1, 2)
    expected = F.interpolate(grid, size=(2, 3), mode="bicubic").flatten(2).transpose(1, 2)
    assert torch.equal(net.position_embedding(2, 3)[:, 3:], expected)
    assert net.position_embedding(4, 4, (35, 39)) is net.pos_embed


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize(("height", "width"), [(32, 32), (39, 35), (35, 39), (45, 71), (8, 15)])
def test_any_size_as_the_references_convolution_and_positions(height, width, training):
    """Its convolution drops what is beyond the last whole patch, but its positions look at the
    pixels: 39 x 35 has the trained grid of 4 x 4 and is resampled all the same."""
    torch.manual_seed(0)
    net = build_vit(TINY).train(training)
    image = torch.randn(2, 3, height, width)
    tokens = F.conv2d(image, net.patch_embed.proj.weight, net.patch_embed.proj.bias, stride=8)
    h, w = tokens.shape[-2:]
    grid = net.pos_embed[:, 1:].reshape(1, 4, 4, 32).permute(0, 3, 1, 2)
    if not (h * w == 16 and height == width):
        grid = F.interpolate(grid, scale_factor=((h + 0.1) / 4, (w + 0.1) / 4), mode="bicubic")
    expected = (tokens + grid).flatten(2).transpose(1, 2)
    ours = net._pos_embed(net.patch_embed(image))[:, 1:]
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("registers", [0, 3])
@pytest.mark.parametrize("embed_class", [True, False])
def test_timm_positions_equal_timm(registers, embed_class):
    """With `positions="timm"` ours is timm's own network, at any size."""
    architecture = VitArchitecture(
        width=32, depth=2, heads=2, patch_size=8, grid=(4, 4), positions="timm",
        registers=registers, embed_class=embed_class,
    )  # fmt: skip
    torch.manual_seed(0)
    ours = build_vit(architecture).eval()
    theirs = timm.models.VisionTransformer(
        img_size=32, patch_size=8, embed_dim=32, depth=2, num_heads=2, num_classes=0,
        dynamic_img_size=True, reg_tokens=registers, no_embed_class=not embed_class,
    ).eval()  # fmt: skip
    theirs.load_state_dict(ours.state_dict())
    for size in ((32, 32), (40, 56)):
        image = torch.randn(2, 3, *size)
        torch.testing.assert_close(ours(image), theirs(image), rtol=0, atol=1e-5)


def test_initialisation_is_the_references():
    torch.manual_seed(0)
    net = build_vit(VitArchitecture(width=192, depth=3, heads=3, patch_size=16, grid=(14, 14)))
    for name in ("pos_embed", "cls_token", "blocks.1.attn.qkv.weight", "blocks.2.mlp.fc2.weight"):
        deviation = dict(net.named_parameters())[name].std().item()
        assert deviation == pytest.approx(0.02, rel=0.15), name
    assert net.blocks[0].attn.qkv.bias.abs().max() == 0
    kernel = net.patch_embed.proj.weight  # PyTorch's own default for a convolution
    assert kernel.abs().max().item() == pytest.approx(1 / math.sqrt(3 * 16 * 16), rel=0.01)


def test_cls_attention_is_the_first_row_of_the_whole_matrix():
    torch.manual_seed(0)
    net = build_vit(TINY).eval()
    image = torch.randn(2, 3, 24, 40)
    tokens = net._pos_embed(net.patch_embed(image))
    tokens = net.blocks[0](tokens)
    attn = net.blocks[1].attn
    qkv = attn.qkv(net.blocks[1].norm1(tokens)).reshape(2, 16, 3, 2, 16).permute(2, 0, 3, 1, 4)
    whole = (qkv[0] @ qkv[1].transpose(-1, -2) / 4).softmax(-1)
    ours = Backbone(net).cls_attention(image)
    assert ours.shape == (2, 2, 3, 5)
    torch.testing.assert_close(ours.flatten(2), whole[:, :, 0, 1:], rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    "architecture",
    [
        TINY,
        VitArchitecture(
            width=48, depth=1, heads=3, patch_size=4, grid=(5, 7), layer_scale=True, registers=4,
            embed_class=False, positions="size", conv_stem=True, eps=1e-12, in_chans=1,
        ),
        TimmArchitecture(name="resnet18", in_chans=1, arguments={}),
    ],
)  # fmt: skip
def test_an_architecture_survives_json(architecture):
    import json

    values = json.loads(json.dumps(architecture_to_json(architecture)))
    assert architecture_from_json(values) == architecture
    a, b = build(architecture), build(architecture_from_json(values))
    assert [*a.state_dict()] == [*b.state_dict()]


@pytest.mark.parametrize("patch", [1, 6, 14])
def test_convolutional_stem_needs_a_power_of_two(patch):
    with pytest.raises(ValueError, match=f"not {patch}$"):
        build_vit(replace(TINY, patch_size=patch, conv_stem=True))


def test_convolutional_stem_halves_the_size_and_doubles_the_width_at_every_stage():
    net = build_vit(replace(TINY, width=64, conv_stem=True)).eval()
    widths = [part.out_channels for part in net.patch_embed.proj if hasattr(part, "stride")]
    assert widths == [16, 32, 64, 64]
    assert net.patch_embed(torch.randn(2, 3, 24, 43)).shape == (2, 3, 5, 64)


@pytest.mark.parametrize(
    "architecture",
    [TINY, TimmArchitecture(name="vit_tiny_patch16_224", arguments={"depth": 2})],
)
def test_drop_path_grows_with_depth(architecture):
    net = build(architecture, drop_path=0.25)
    assert [getattr(b.drop_path1, "drop_prob", 0) for b in net.blocks] == [0, 0.25]


@pytest.mark.parametrize(
    ("name", "channels"), [("resnet18", 3), ("vit_tiny_patch16_224", 1), ("convnext_atto", 5)]
)
def test_features_of_any_timm_model(name, channels):
    arguments = {"dynamic_img_size": True} if name.startswith("vit") else {}
    architecture = TimmArchitecture(name=name, in_chans=channels, arguments=arguments)
    backbone = Backbone(build(architecture))
    image = torch.randn(2, channels, 64, 64)
    assert backbone.features(image).shape == (2, backbone.dim)
    with torch.inference_mode():
        torch.testing.assert_close(backbone.features(image), backbone.net(image))


@pytest.mark.parametrize("channels", [1, 3, 5])
def test_patches_in_training_are_those_of_the_convolution(channels):
    torch.manual_seed(0)
    net = build_vit(
        VitArchitecture(width=32, depth=1, heads=1, patch_size=8, grid=(4, 4), in_chans=channels)
    )
    x = torch.randn(2, channels, 24, 40)
    found = {}
    for training in (True, False):
        net.train(training).zero_grad()
        patches = net.patch_embed(x)
        patches.square().sum().backward()
        assert patches.shape == (2, 3, 5, 32)
        found[training] = [patches, *(p.grad for p in net.patch_embed.parameters())]
    for ours, convolution in zip(found[True], found[False], strict=True):
        torch.testing.assert_close(ours, convolution, rtol=1e-4, atol=1e-4)
    odd = x[:, :, :23]
    torch.testing.assert_close(net.train().patch_embed(odd), net.eval().patch_embed(odd))
