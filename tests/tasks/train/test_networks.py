"""What `dino train` trains: other backbones, and networks that begin with weights."""

import argparse
import json
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from in_process import answer, dino
from safetensors.torch import load_file, save_file
from small_run import losses

from dino_cli.core.network.architecture import VitArchitecture
from dino_cli.core.network.backbone import Backbone, build
from dino_cli.core.network.vit import build_vit
from dino_cli.tasks.train import setup
from dino_cli.tasks.train.setup import timm_architecture


@pytest.mark.slow
@pytest.mark.parametrize("arch", ["resnet18", "xcit_nano_12_p16_224"])
def test_other_timm_backbones_train(images, small, tmp_path, arch):
    flags = ["--arch", arch, "--max-steps", "2"]
    config = small.read_text().replace("patch_size = 8\nwidth = 32\ndepth = 2\nheads = 2\n", "")
    small.write_text(config)
    dino("train", images, "--config", small, "-o", tmp_path / "run", *flags)
    assert len(losses(tmp_path / "run")) == 2
    out = tmp_path / "f.npy"
    dino("embed", images / "fish", "--weights", tmp_path / "run", "-o", out, "--device", "cpu")


FAMILIES = (
    "convnextv2_atto", "edgenext_xx_small", "tiny_vit_5m_224", "davit_tiny", "efficientvit_b0",
    "efficientvit_m0", "test_convnext", "test_nfnet", "test_efficientnet", "efficientformerv2_s0",
    "poolformer_s12", "regnety_002", "mobilevit_xxs", "hgnetv2_b0", "coatnet_nano_rw_224",
    "mobilenetv3_small_050",
)  # fmt: skip


@pytest.mark.parametrize("arch", ["eva02_tiny_patch14_224", "vit_small_patch16_dinov3"])
def test_what_is_trained_is_the_class_token_that_embed_gives(arch):
    """timm's default there is the mean of the patches."""
    net = build(timm_architecture(arch, 3, 112)).eval()
    x = torch.randn(2, 3, 112, 112)
    with torch.inference_mode():
        trained, tokens = net(x), net.forward_features(x)
    torch.testing.assert_close(trained, tokens[:, 0])
    torch.testing.assert_close(trained, Backbone(net).features(x), rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_weights_and_runs_that_average_the_patches_go_on(images, small, tmp_path, monkeypatch):
    arch = "eva02_tiny_patch14_224"
    given = timm.create_model(arch, num_classes=0, img_size=56)
    assert "fc_norm.weight" in given.state_dict()
    save_file(given.state_dict(), tmp_path / "given.safetensors")
    config = small.read_text().replace("patch_size = 8\nwidth = 32\ndepth = 2\nheads = 2\n", "")
    config = config.replace("global_size = 32", "global_size = 56")
    small.write_text(config)
    words = ["train", images, "--config", small, "--arch", arch, "--batch-size", "2"]
    words += ["--local-crops-number", "0"]
    start = [*words, "--init-from", tmp_path / "given.safetensors", "--max-steps", "1"]
    dino(*start, "-o", tmp_path / "new")
    assert (
        json.loads((tmp_path / "new/config.json").read_text())["architecture"]["arguments"][
            "global_pool"
        ]
        == "token"
    )
    with monkeypatch.context() as before:  # a run of a version that knew nothing of this
        alone = {"img_size": 56, "dynamic_img_size": True}
        before.setattr(setup, "_vit_arguments", lambda *_: alone)
        dino(*words, "--max-steps", "1", "-o", tmp_path / "old")
    dino("train", "--resume", tmp_path / "old", "--max-steps", "2")
    assert len(losses(tmp_path / "old")) == 2
    dino("embed", images / "fish", "--weights", tmp_path / "old", "-o", tmp_path / "f.npy")


@pytest.mark.parametrize(
    "arch", ["test_mambaout", *(pytest.param(name, marks=pytest.mark.slow) for name in FAMILIES)]
)
def test_trained_timm_backbones_are_read_again(images, small, tmp_path, arch):
    """Though the final norm of many is called head.norm, as if it were of a head of DINO's, and
    some have a layer after it."""
    config = small.read_text().replace("patch_size = 8\nwidth = 32\ndepth = 2\nheads = 2\n", "")
    side = 224 if arch.endswith("_224") or arch == "efficientformerv2_s0" else 64
    small.write_text(config.replace("global_size = 32", f"global_size = {side}"))
    words = ["train", images, "--config", small, "--arch", arch, "--max-steps", "1"]
    words += ["--drop-path", "0", "--local-crops-number", "0", "--batch-size", "2"]
    run = tmp_path / "run"
    dino(*words, "-o", run)
    weights = ["--weights", run, "--device", "cpu"]
    width = torch.load(run / "checkpoint.pt")["teacher"]["head.mlp.0.weight"].shape[1]
    for key in ("teacher", "student"):
        out = tmp_path / f"{key}.npy"
        dino("embed", images / "fish", *weights, "--checkpoint-key", key, "-o", out)
        features = np.load(out)
        assert np.isfinite(features).all()
        assert features.shape[1] == width
    told = answer("weights", "inspect", run / "checkpoint.pt")
    assert told["fits"]
    assert told["head"]["out_dim"] == 64
    dino("export", run, "-o", tmp_path / "timm.safetensors")
    weights[1] = tmp_path / "timm.safetensors"
    dino("embed", images / "fish", *weights, "-o", tmp_path / "exported.npy")
    again = dino(*words, "-o", tmp_path / "again", "--init-from", run)
    assert "the projection head and the centre go on from" in " ".join(again.stderr.split())


@pytest.mark.parametrize(
    "arch", ["vit_small_patch14_dinov2", "swin_tiny_patch4_window7_224", "beit_base_patch16_224"]
)
def test_backbones_that_cannot_take_the_views_are_refused(images, small, tmp_path, arch):
    config = small.read_text().replace("patch_size = 8\nwidth = 32\ndepth = 2\nheads = 2\n", "")
    small.write_text(config)
    result = dino(
        "train", images, "--config", small, "-o", tmp_path / "run", "--arch", arch, code=2
    )
    assert arch in result.stderr
    assert "unexpected keyword argument" not in result.stderr
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_network_of_one_size_trains_on_global_views(images, small, tmp_path):
    """One with relative positions, which timm does not resample."""
    config = small.read_text().replace("patch_size = 8\nwidth = 32\ndepth = 2\nheads = 2\n", "")
    small.write_text(config)
    words = ["train", images, "--config", small, "-o", tmp_path / "run", "--batch-size", "2"]
    words += ["--arch", "vit_relpos_small_patch16_224", "--max-steps", "1"]
    said = dino(*words, code=2).stderr
    assert "cannot take views of 16 px (Input height (16)" in " ".join(said.split())
    dino(*words, "--local-crops-number", "0")
    assert len(losses(tmp_path / "run")) == 1


@pytest.mark.parametrize(
    ("arch", "sizes"),
    [
        ("vit_tiny", ("32", "32")),
        ("vit_tiny", ("32x16", "16x32")),
        pytest.param("xcit_nano_12_p16_224", ("64x32", "32x64"), marks=pytest.mark.slow),
        # The same map of 2 × 2 at the end
        pytest.param("regnety_002", ("64", "60"), marks=pytest.mark.slow),
    ],
)
def test_views_whose_masks_would_be_confused_are_refused(images, small, tmp_path, arch, sizes):
    """Recomputed activations would get the masks of the other views, and so wrong gradients."""
    if arch != "vit_tiny":
        named = "patch_size = 8\nwidth = 32\ndepth = 2\nheads = 2\n"
        small.write_text(small.read_text().replace(named, ""))
    words = ["train", images, "--config", small, "--arch", arch, "--checkpoint-activations"]
    words += ["--global-size", sizes[0], "--local-size", sizes[1], "-o", tmp_path / "run"]
    said = " ".join(dino(*words, code=2).stderr.split())
    assert f"global and local views of {sizes[0]} and {sizes[1]} px give equally many" in said
    assert not (tmp_path / "run").exists()
    dino(*words, "--drop-path", "0", "--max-steps", "1")


@pytest.mark.slow
def test_windows_of_views_repeat_their_own_masks(images, small, tmp_path):
    """Windows are of one shape in all views; there are more of them in some."""
    named = "patch_size = 8\nwidth = 32\ndepth = 2\nheads = 2\n"
    small.write_text(small.read_text().replace(named, ""))
    words = ["train", images, "--config", small, "--arch", "mobilevit_xxs", "--drop-path", "0.5"]
    words += ["--global-size", "64", "--local-size", "32", "--local-crops-number", "3"]
    words += ["--batch-size", "2", "--max-steps", "3", "--lr", "0.1", "--warmup-epochs", "0"]
    dino(*words, "-o", tmp_path / "kept")
    dino(*words, "-o", tmp_path / "again", "--checkpoint-activations")
    assert losses(tmp_path / "again") == pytest.approx(losses(tmp_path / "kept"), rel=1e-5)


def test_a_grey_model_trains_and_embeds(images, small, tmp_path):
    run = tmp_path / "run"
    dino("train", images, "--config", small, "-o", run, "--max-steps", "2", "--in-chans", "1")
    described = json.loads((run / "config.json").read_text())
    assert described["architecture"]["in_chans"] == 1
    assert len(described["preprocessing"]["mean"]) == 1
    dino("embed", images / "fish", "--weights", run, "-o", tmp_path / "f.npy", "--device", "cpu")


def test_starting_from_weights_resamples_positions(images, small, tmp_path):
    """--init-from at another resolution: student and teacher start as those weights."""
    first, second = tmp_path / "first", tmp_path / "second"
    dino("train", images, "--config", small, "-o", first, "--max-steps", "3")
    dino(
        "train", images, "--config", small, "-o", second, "--max-steps", "1", "--init-from", first,
        "--global-size", "48",
    )  # fmt: skip
    a = torch.load(first / "checkpoint.pt", weights_only=True)["teacher"]
    b = torch.load(second / "checkpoint.pt", weights_only=True)["student"]  # its lr was 0
    assert b["backbone.pos_embed"].shape == (1, 37, 32)
    assert torch.equal(a["backbone.blocks.1.mlp.fc1.weight"], b["backbone.blocks.1.mlp.fc1.weight"])


@pytest.mark.slow
@pytest.mark.parametrize("arch", ["vit_tiny_patch16_224", "vit_tiny"])
def test_starting_resamples_positions_of_timms_networks(images, small, tmp_path, arch):
    """By timm's rule where timm made them, by DINO's where they are of a DINO ViT."""
    named = "patch_size = 8\nwidth = 32\ndepth = 2\nheads = 2\n"
    small.write_text(small.read_text().replace(named, ""))
    words = ["train", images, "--config", small, "--max-steps", "1", "--local-size", "32"]
    first, second = tmp_path / "first", tmp_path / "second"
    dino(*words, "--arch", arch, "--global-size", "64", "-o", first)
    given = load_file(first / "teacher.safetensors")
    larger = ["--arch", "vit_tiny_patch16_224", "--global-size", "96"]
    dino(*words, *larger, "--init-from", first / "teacher.safetensors", "-o", second)
    if arch == "vit_tiny":
        a = VitArchitecture(width=192, depth=12, heads=3, patch_size=16, grid=(4, 4))
        net = build_vit(a)
        net.load_state_dict(given)
        wanted = net.position_embedding(6, 6)
    else:
        net = timm.create_model(arch, img_size=64, num_classes=0)
        net.load_state_dict(given)
        net.set_input_size(96)
        wanted = net.pos_embed
    found = torch.load(second / "checkpoint.pt", weights_only=True)["student"]
    assert found["backbone.pos_embed"].shape == (1, 37, 192)
    torch.testing.assert_close(found["backbone.pos_embed"], wanted.detach())


def test_starting_from_a_model_by_name(images, small, tmp_path):
    """A shipped one; and what is neither a file nor a model is told as what was typed."""
    words = ["train", images, "--config", small, "--max-steps", "1", "--init-from"]
    shape = ["--patch-size", "8", "--width", "128", "--depth", "6", "--heads", "4"]
    dino(*words, "dino_demo", *shape, "-o", tmp_path / "run")
    student = torch.load(tmp_path / "run" / "checkpoint.pt", weights_only=True)["student"]
    (shipped,) = Path(__file__).parents[3].glob("weights/dino_demo.safetensors")
    name = "blocks.1.mlp.fc1.weight"
    assert torch.equal(student[f"backbone.{name}"], load_file(shipped)[name].float())
    for given, said in {
        "dino_demmo": "there is no model 'dino_demmo'; did you mean dino_demo",
        "./gone": "there are no weights at './gone'; check --init-from",
        "runs/gone": "nothing lies at 'runs/gone'",
    }.items():
        result = dino(*words, given, "-o", tmp_path / "other", code=1)
        assert said in result.stderr
        assert "--weights" not in result.stderr
    two = ["--width", "128", "--depth", "6", "--patch-size", "8", "-o", tmp_path / "other"]
    small.write_text(small.read_text().replace("heads = 2\n", ""))
    said = dino(*words, "dino_demo", *two, code=1).stderr
    assert said.endswith("px: number of heads; choose --heads 4\n")
    convnet = ["--arch", "resnet18", "-o", tmp_path / "other"]
    said = dino(*words, "dino_demo", *convnet, code=1).stderr
    assert "--init-from dino_demo does not fit resnet18" in said
    assert said.endswith(f"choose --arch vit_tiny {' '.join(shape)}\n")


@pytest.mark.parametrize(
    ("registers", "name"),
    [
        (0, "vit_small_patch14_dinov2"),
        pytest.param(4, "vit_small_patch14_reg4_dinov2", marks=pytest.mark.slow),
    ],
)
def test_the_timm_model_that_dinov2s_weights_are_of_is_named(
    images, small, tmp_path, registers, name
):
    a = VitArchitecture(
        width=384, depth=12, heads=6, patch_size=14, grid=(37, 37), layer_scale=True
    )
    tensors = {k: torch.zeros_like(t) for k, t in build_vit(a).state_dict().items()}
    tensors |= {"mask_token": torch.zeros(1, 384)}
    tensors |= {"register_tokens": torch.zeros(1, registers, 384)} if registers else {}
    save_file(tensors, tmp_path / "dinov2.safetensors")
    words = ["--config", small, "--max-steps", "1", "-o", tmp_path / "run"]
    words += ["--init-from", tmp_path / "dinov2.safetensors"]
    said = dino("train", images, *words, code=1).stderr
    line = f"--arch {name} --global-size 28 --local-size 14"
    assert said.endswith(
        f"; choose {line}, without --patch-size and --width and --depth and --heads\n"
    )
    told = answer("weights", "inspect", tmp_path / "dinov2.safetensors")
    assert told["arch"] == name
    assert name in dino("weights", "inspect", tmp_path / "dinov2.safetensors").stdout
    if registers:
        small.write_text(
            small.read_text().replace("patch_size = 8\nwidth = 32\ndepth = 2\nheads = 2\n", "")
        )
        dino("train", images, *words, *line.split(), "--batch-size", "2")


HIDDEN = "head.mlp.0.weight"
STILL = ["--max-steps", "1", "--center-momentum", "1"]  # the first step's rate is 0


def as_the_original_saves_it(checkpoint, path):
    """Of a checkpoint of ours, as `main_dino.py` writes it."""
    wrapped = {f"module.{name}": tensor for name, tensor in checkpoint["student"].items()}
    content = {"student": wrapped, "teacher": checkpoint["teacher"], "epoch": 3}
    content |= {"args": argparse.Namespace(arch="vit_small")}
    torch.save({**content, "dino_loss": {"center": checkpoint["centre"]}}, path)


@pytest.mark.parametrize("given", ["a run", "a checkpoint", "the original's"])
def test_head_and_centre_go_on_from_a_full_checkpoint(images, small, tmp_path, given):
    first, second = tmp_path / "first", tmp_path / "second"
    dino("train", images, "--config", small, "-o", first, "--max-steps", "3")
    before = torch.load(first / "checkpoint.pt", weights_only=True)
    as_the_original_saves_it(before, tmp_path / "full.pth")
    paths = {"a run": first, "a checkpoint": first / "checkpoint.pt"}
    path = paths.get(given, tmp_path / "full.pth")
    words = ["train", images, "--config", small, "-o", second, *STILL, "--init-from", path]
    assert "the projection head and the centre go on from" in dino(*words).stderr
    after = torch.load(second / "checkpoint.pt", weights_only=True)
    assert not torch.equal(before["student"][HIDDEN], before["teacher"][HIDDEN])
    assert before["centre"].abs().max() > 0
    for network in ("student", "teacher"):
        for name, tensor in before["teacher"].items():
            assert torch.equal(after[network][name], tensor), name
    assert torch.equal(after["centre"], before["centre"])


def test_a_head_that_does_not_fit_or_is_not_there_is_told(images, small, tmp_path):
    first = tmp_path / "first"
    dino("train", images, "--config", small, "-o", first, "--max-steps", "1")
    head = torch.load(first / "checkpoint.pt", weights_only=True)["teacher"]
    words = ["train", images, "--config", small, *STILL, "--init-from"]
    bare = dino(*words, first / "teacher.safetensors", "-o", tmp_path / "bare").stderr
    assert f"{first / 'teacher.safetensors'} holds no projection head, which starts anew" in bare
    other = ["--out-dim", "24", "--use-bn-in-head"]
    said = dino(*words, first, "-o", tmp_path / "other", *other).stderr
    outputs = len(head["head.last_layer.weight_v"])
    assert f"it would fit with --out-dim {outputs} --no-use-bn-in-head\n" in said
    whole = torch.load(first / "checkpoint.pt", weights_only=True)
    del whole["teacher"]["head.mlp.2.weight"]  # a head of another make
    as_the_original_saves_it(whole, tmp_path / "full.pth")
    said = dino(*words, tmp_path / "full.pth", "-o", tmp_path / "odd").stderr
    assert f"head of {tmp_path / 'full.pth'} does not fit and starts anew\n" in said
    centred = dino(*words, first, "-o", tmp_path / "batch", "--center-init", "batch").stderr
    assert f"the projection head goes on from {first} too" in centred


def test_a_head_that_is_not_finite_is_refused(images, small, tmp_path):
    first = tmp_path / "first"
    dino("train", images, "--config", small, "-o", first, "--max-steps", "1")
    broken = torch.load(first / "checkpoint.pt", weights_only=True)
    broken["teacher"]["head.mlp.0.bias"][0] = float("nan")
    as_the_original_saves_it(broken, tmp_path / "full.pth")
    words = ["train", images, "--config", small, *STILL, "-o", tmp_path / "second"]
    said = dino(*words, "--init-from", tmp_path / "full.pth", code=1).stderr
    assert "its head is not finite (mlp.0.bias)" in said
    assert not (tmp_path / "second").exists()
