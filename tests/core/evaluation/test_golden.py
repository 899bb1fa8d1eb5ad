"""Linear classification and segmentation against the original's numbers; sizes from the files."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from golden_files import Golden, enlarged, eval_golden_folder, golden_backbone

from dino_cli.core.evaluation.linear import (
    LinearClassifiers,
    cosine_rate,
    linear_features,
    top_hits,
)
from dino_cli.core.evaluation.overlaps import objects_of
from dino_cli.core.masks.threshold import threshold_mass
from dino_cli.core.network.backbone import Backbone

pytestmark = pytest.mark.golden

FEATURES, TRAINING, JACCARD = 1e-5, 1e-4, 1e-6
GOLDEN = Golden(eval_golden_folder())


def backbone_of(name: str, heads: int) -> Backbone:
    return golden_backbone(GOLDEN.tensors(name), heads)


def features_of(backbone: Backbone, images: torch.Tensor, case: dict) -> torch.Tensor:
    blocks = backbone.last_tokens(images, case["n_last_blocks"])
    return linear_features(blocks, backbone.prefix_tokens, avgpool=case["avgpool"])


@pytest.mark.parametrize("name", GOLDEN.json("linear")["cases"])
def test_features_logits_loss_and_accuracy(name):
    facts, files = GOLDEN.json("linear"), GOLDEN.tensors("linear")
    net, case = name.split(".")[0], facts["cases"][name]
    backbone = backbone_of(net, facts[net]["num_heads"])
    features = features_of(backbone, enlarged(files[f"{net}.input_small"]), case)
    assert features.shape[1] == case["width"]
    torch.testing.assert_close(features, files[f"{name}.features"], atol=FEATURES, rtol=0)
    labels = files[f"{name}.labels"]
    layer = LinearClassifiers.of(files[f"{name}.weight"][None], files[f"{name}.bias"][None])
    logits = layer.logits(features)
    torch.testing.assert_close(logits[0], files[f"{name}.logits"], atol=FEATURES, rtol=0)
    assert float(F.cross_entropy(logits[0], labels)) == pytest.approx(case["loss"], abs=FEATURES)
    hits = top_hits(logits[0], labels)
    assert 100 * float(hits.top1.double().mean()) == pytest.approx(case["acc1"], abs=1e-5)
    if "acc5" in case:
        assert 100 * float(hits.top5.double().mean()) == pytest.approx(case["acc5"], abs=1e-5)


@pytest.mark.parametrize("name", GOLDEN.json("linear")["train"])
def test_a_whole_linear_training(name):
    facts, files = GOLDEN.json("linear"), GOLDEN.tensors("linear")
    case = facts["train"][name]
    backbone = backbone_of("linear_vit", facts["linear_vit"]["num_heads"])
    initial = files[f"{name}.weight_init"]
    layer = LinearClassifiers.of(initial[None].clone(), torch.zeros(1, len(initial)))
    val = features_of(backbone, enlarged(files[f"{name}.val_images_small"]), case)
    val_labels = files[f"{name}.val_labels"]
    batch, per_epoch = case["batch_size"], case["steps_per_epoch"]
    start = case["base_lr"] * batch / 256
    assert start == pytest.approx(case["lr_start"])
    for i, step in enumerate(case["steps"]):
        epoch = i // per_epoch
        rate = cosine_rate(start, epoch, case["epochs"])
        assert rate == pytest.approx(step["lr"], rel=TRAINING)
        features = features_of(backbone, enlarged(files[f"{name}.images_small"][i]), case)
        torch.testing.assert_close(features, files[f"{name}.features"][i], atol=FEATURES, rtol=0)
        loss = layer.step(features, files[f"{name}.labels"][i], torch.tensor([rate]))
        assert float(loss) == pytest.approx(step["loss"], rel=TRAINING)
        assert float(layer.weight.norm()) == pytest.approx(step["weight_norm"], rel=TRAINING)
        assert float(layer.bias.norm()) == pytest.approx(step["bias_norm"], rel=TRAINING)
        if (i + 1) % per_epoch == 0:
            after = case["validation_after_epoch"][epoch]
            logits = layer.logits(val)[0]
            hits = top_hits(logits, val_labels)
            assert 100 * float(hits.top1.double().mean()) == pytest.approx(after["acc1"])
            assert 100 * float(hits.top5.double().mean()) == pytest.approx(after["acc5"])
            parts = zip(
                logits.split(case["val_batches"]),
                val_labels.split(case["val_batches"]),
                strict=True,
            )
            mean = np.mean([float(F.cross_entropy(x, y)) for x, y in parts])
            assert mean == pytest.approx(after["loss_mean_of_batches"], rel=TRAINING)
    for ours, theirs in ((layer.weight, "weight_final"), (layer.bias, "bias_final")):
        expected = files[f"{name}.{theirs}"]
        atol = TRAINING * float(expected.abs().max())
        torch.testing.assert_close(ours[0], expected, atol=atol, rtol=0)


def labels_and_attention():
    """(facts, label map, attention) of every image."""
    facts = GOLDEN.json("segmentation")
    with np.load(eval_golden_folder() / "segmentation.npz") as maps:
        labels = dict(maps)
    attention = GOLDEN.tensors("segmentation")
    for image in facts["images"]:
        i = image["image"]
        yield facts, image, labels[f"labels.{i}"], labels[f"mask.{i}"], attention[f"attention.{i}"]


def test_jaccard_of_every_object_and_head():
    means: dict[str, list[float]] = {}
    for facts, image, labels, mask, attention in labels_and_attention():
        patch = facts["patch_size"]
        objects = objects_of(labels)
        np.testing.assert_array_equal(threshold_mass(attention, 0.6).numpy(), mask.astype(bool))
        for threshold in map(str, facts["thresholds"]):
            overlaps = objects.overlaps(threshold_mass(attention, float(threshold)).numpy(), patch)
            expected = image["objects"][threshold]
            assert [str(label) for label in objects.labels] == list(expected)
            for row, one in zip(overlaps, expected.values(), strict=True):
                np.testing.assert_allclose(row, one["per_head"], atol=JACCARD)
                assert row.argmax() == one["best_head"]
            jaccard = overlaps.max(axis=1).mean()
            assert jaccard == pytest.approx(image["jaccard"][threshold], abs=JACCARD)
            means.setdefault(threshold, []).append(jaccard)
    for threshold, values in means.items():
        expected = facts["mean_jaccard"][threshold]
        assert np.mean(values) == pytest.approx(expected, abs=JACCARD)


def test_jaccard_from_an_image():
    facts = GOLDEN.json("segmentation")["vit"]
    files = GOLDEN.tensors("segmentation")
    backbone = backbone_of("vit", facts["num_heads"])
    attention = backbone.cls_attention(enlarged(files["vit.input_small"]))[0]
    torch.testing.assert_close(attention, files["vit.attention"], atol=JACCARD, rtol=0)
    with np.load(eval_golden_folder() / "segmentation.npz") as maps:
        objects = objects_of(maps["vit.labels"])
    masks = threshold_mass(attention, facts["threshold"]).numpy()
    overlaps = objects.overlaps(masks, backbone.patch_size)
    for row, one in zip(overlaps, facts["objects"].values(), strict=True):
        np.testing.assert_allclose(row, one["per_head"], atol=JACCARD)
    assert overlaps.max(axis=1).mean() == pytest.approx(facts["jaccard"], abs=JACCARD)
