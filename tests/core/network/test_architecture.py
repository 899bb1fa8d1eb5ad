"""Descriptions of networks that come with a file: what is believed of them."""

import pytest

from dino_cli.core.network.architecture import (
    VIT_SIZES,
    TimmArchitecture,
    VitArchitecture,
    architecture_from_json,
    architecture_to_json,
)

VIT = VitArchitecture(width=32, depth=2, heads=2, patch_size=8, grid=(4, 4), registers=4)
TIMM = TimmArchitecture(
    name="vit_tiny_patch16_224.augreg_in21k",
    arguments={"img_size": [32, 48], "qk_norm": True, "act": "gelu", "eps": 1e-6, "drop": None},
)


@pytest.mark.parametrize("architecture", [VIT, TIMM])
def test_what_was_written_is_believed(architecture):
    assert architecture_from_json(architecture_to_json(architecture)) == architecture


@pytest.mark.parametrize(
    "change",
    [
        {"width": 33}, {"width": 0}, {"width": 2**17}, {"width": "32"}, {"depth": 1001},
        {"heads": True}, {"heads": 0}, {"patch_size": -1}, {"in_chans": 0}, {"grid": [4, 0]},
        {"grid": [2**17, 4]}, {"registers": -1}, {"registers": 2**17}, {"registers": 1.0},
        {"mlp_ratio": 0}, {"mlp_ratio": 65}, {"mlp_ratio": "4"}, {"eps": 0}, {"eps": 1},
        {"eps": float("nan")}, {"positions": "other"}, {"layer_scale": 1}, {"swiglu": "no"},
        {"kind": "convnet"},
    ],
    ids=str,
)  # fmt: skip
def test_no_vision_transformer_is_such(change):
    with pytest.raises(ValueError, match=r"no vision transformer|unknown kind"):
        architecture_from_json({**architecture_to_json(VIT), **change})


@pytest.mark.parametrize(
    "change",
    [
        {"name": "hf-hub:somebody/model"}, {"name": "vit_tiny/../x"}, {"name": "vit tiny"},
        {"name": ""}, {"name": 3}, {"in_chans": 0}, {"in_chans": 2**17},
        {"arguments": {"pretrained": True}}, {"arguments": {"checkpoint_path": "/tmp/w.pth"}},
        {"arguments": {"pretrained_cfg": None}}, {"arguments": {"norm": {"file": "x"}}},
        {"arguments": {"sizes": [1, [2, {}]]}}, {"arguments": {"sizes": [1] * 1001}},
    ],
    ids=lambda change: str(change)[:40],
)  # fmt: skip
def test_no_model_of_timm_is_such(change):
    with pytest.raises(ValueError, match=r"no model of timm|never written"):
        architecture_from_json({**architecture_to_json(TIMM), **change})


def test_heads_of_the_papers_networks_are_64_wide():
    assert all(width == 64 * heads for width, _, heads in VIT_SIZES.values())
