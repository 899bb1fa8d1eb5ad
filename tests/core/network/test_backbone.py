"""Any network of timm: how wide its features are, in training and elsewhere."""

import pytest
import torch
from torch import nn

from dino_cli.config.train import TrainConfig
from dino_cli.core.network.architecture import Architecture, TimmArchitecture, VitArchitecture
from dino_cli.core.network.backbone import Backbone, build, build_empty, feature_width
from dino_cli.core.network.features import Extractor
from dino_cli.tasks.train.cost import gflop_per_image

SMALL = VitArchitecture(width=32, depth=2, heads=2, patch_size=8, grid=(4, 4))


def widths(net: nn.Module, x: torch.Tensor) -> set[int]:
    """By every way to the features."""
    backbone = Backbone(net)
    return {net(x).shape[1], backbone.features(x).shape[1], backbone.dim, feature_width(net)}


@pytest.mark.parametrize(
    ("name", "width", "last"),
    [
        ("test_mambaout", 256, 64),
        ("lcnet_050", 1280, 256),
        ("mobilenetv3_small_050", 1024, 288),
        ("ghostnet_050", 1280, 480),
        ("resnet18", 512, 512),
        pytest.param("mobilenetv4_conv_small_035", 1280, 336, marks=pytest.mark.slow),
        pytest.param("efficientvit_b0", 1280, 128, marks=pytest.mark.slow),
        pytest.param("hgnetv2_b0", 2048, 1024, marks=pytest.mark.slow),
        pytest.param("inception_next_atto", 960, 320, marks=pytest.mark.slow),
        pytest.param("fasternet_t0", 1280, 320, marks=pytest.mark.slow),
        pytest.param("vgg16", 4096, 512, marks=pytest.mark.slow),
        pytest.param("tiny_vit_5m_224", 320, 320, marks=pytest.mark.slow),
    ],
)
def test_features_are_as_wide_as_the_last_layer_makes_them(
    name: str, width: int, last: int
) -> None:
    """last: width of the map before that layer."""
    architecture: Architecture = TimmArchitecture(name=name)
    net: nn.Module = build_empty(architecture).eval()
    with torch.device("meta"):
        assert widths(net, torch.empty(2, 3, 224, 224)) == {width}
    assert net.num_features == last
    config = TrainConfig(arch=name, out_dim=64, local_crops_number=0)
    assert gflop_per_image(config, architecture) > 0


@pytest.mark.parametrize(
    "architecture",
    [
        SMALL,
        TimmArchitecture(name="test_mambaout"),
        pytest.param(TimmArchitecture(name="crossvit_9_240"), marks=pytest.mark.slow),
        pytest.param(TimmArchitecture(name="efficientvim_m1"), marks=pytest.mark.slow),
        pytest.param(TimmArchitecture(name="coat_tiny"), marks=pytest.mark.slow),
    ],
    ids=lambda a: getattr(a, "name", "own"),
)
def test_training_and_embedding_take_the_same_features(architecture: Architecture) -> None:
    """Also of a network whose last layers give several maps or sequences."""
    torch.manual_seed(0)
    net = build(architecture).eval()
    side = {"crossvit_9_240": 240, "coat_tiny": 224}.get(getattr(architecture, "name", ""), 64)
    x = torch.randn(2, 3, side, side)
    with torch.inference_mode():
        wanted = net(x)
    found = Extractor(Backbone(net), ["cls"])(x)["cls"]
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-6)
