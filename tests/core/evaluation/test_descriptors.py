"""Descriptors of retrieval and copy detection, and their whitening, against the original's."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from golden_files import Golden, enlarged, eval_golden_folder, golden_backbone

from dino_cli.core.evaluation.descriptors import cls_and_gem, gem
from dino_cli.core.evaluation.ranking import average_precision, positive_ranks
from dino_cli.core.network.features import Extractor
from dino_cli.core.pca.moments import Moments
from dino_cli.core.pca.whitening import Whitening

GOLDEN = Golden(eval_golden_folder())
FEATURES, COSINES, MAP = 1e-5, 1e-3, 1e-6


@pytest.mark.golden
def test_one_and_several_scales():
    facts, files = GOLDEN.json("retrieval"), GOLDEN.tensors("retrieval")
    net = golden_backbone(GOLDEN.tensors("vit"), facts["num_heads"])
    sizes = {name.split(".")[1] for name in files if name.startswith("ms.")}
    assert sizes

    extract = Extractor(net, ("cls",))
    for size in sizes:
        images = enlarged(files[f"ms.{size}.input_small"])
        h, w = (side // net.patch_size * net.patch_size for side in images.shape[-2:])
        single, multi = extract(images[..., :h, :w]), extract(images, multi_scale=True)
        for ours, name in ((single["cls"], "single"), (multi["cls"], "multi")):
            expected = files[f"ms.{size}.{name}_scale"]
            torch.testing.assert_close(ours, expected, atol=FEATURES, rtol=0)


@pytest.mark.golden
def test_cls_and_gem():
    facts, files = GOLDEN.json("copies"), GOLDEN.tensors("copies")
    ours = cls_and_gem(files["gem_tokens"], 1)
    torch.testing.assert_close(ours, files["gem_features"], atol=FEATURES, rtol=0)
    net = golden_backbone(GOLDEN.tensors("vit"), facts["num_heads"])
    images = enlarged(files["vit.input_small"])
    torch.testing.assert_close(
        cls_and_gem(net.tokens(images), net.prefix_tokens),
        files["vit.features"], atol=FEATURES, rtol=0,
    )  # fmt: skip


def whitened(rows):
    files, moments = GOLDEN.tensors("copies"), Moments()
    for batch in files["whitening"][:rows].split(7):
        moments.add(batch)
    return moments


def cosines(transform):
    files = GOLDEN.tensors("copies")
    queries = torch.cat([files["original"], files["strong"], files["jpeg"]])
    database = torch.cat([files["original"], files["distractors"]])
    return F.normalize(transform(queries), dim=1) @ F.normalize(transform(database), dim=1).T


@pytest.mark.golden
def test_whitening():
    files, moments = GOLDEN.tensors("copies"), whitened(None)
    torch.testing.assert_close(moments.mean.float(), files["mean"], atol=1e-5, rtol=0)
    scale = float(files["covariance"].abs().max())
    torch.testing.assert_close(
        moments.about_zero.float(), files["covariance"], atol=1e-5 * scale, rtol=0
    )
    singular = torch.linalg.svdvals(Whitening.of(moments).matrix).float()
    torch.testing.assert_close(singular, files["pca_singular"], rtol=1e-2, atol=0)
    few = GOLDEN.json("copies")["few"]
    for rows, name in ((None, ""), (few, "_few")):
        ours = cosines(Whitening.of(whitened(rows)).apply).float()
        expected = files[f"whitened_similarity{name}"]
        torch.testing.assert_close(ours, expected, atol=COSINES, rtol=0)


@pytest.mark.golden
@pytest.mark.parametrize("name", GOLDEN.json("copies")["map"])
def test_mean_average_precision_of_copies(name):
    facts, files = GOLDEN.json("copies"), GOLDEN.tensors("copies")
    rows = facts["few"] if name.endswith("few") else None
    plain = name == "no_whitening"
    similarity = cosines(torch.Tensor.double if plain else Whitening.of(whitened(rows)).apply)
    nearest, order = similarity.topk(facts["topk"], dim=1)
    kind = {"no_whitening": "raw", "whitening": "whitened"}.get(name)
    if kind:
        # Not the order itself: distractors that are equally near may change places.
        theirs = similarity.gather(1, files[f"top20_{kind}"])
        torch.testing.assert_close(theirs, nearest, atol=COSINES, rtol=0)
    names = facts["names"]
    owners = [
        [j for j, own in enumerate(names["original"]) if own[:4] == copy[:4]]
        if block == "strong"
        else [i]
        for block, copies in names.items()
        for i, copy in enumerate(copies)
    ]
    precisions = [
        average_precision(positive_ranks(row.numpy(), mine), len(mine))
        for row, mine in zip(order, owners, strict=True)
    ]
    if kind:
        np.testing.assert_allclose(precisions, files[f"ap_{kind}"], atol=MAP)
    start = 0
    for block, copies in names.items():
        mean = np.mean(precisions[start : start + len(copies)])
        assert mean == pytest.approx(facts["map"][name][block], abs=MAP)
        start += len(copies)


def test_generalised_mean_lies_between_mean_and_maximum():
    tokens = torch.rand(3, 9, 5)
    assert (gem(tokens) > tokens.mean(dim=1)).all()
    assert (gem(tokens) < tokens.amax(dim=1)).all()
    torch.testing.assert_close(gem(tokens, 1), tokens.mean(dim=1))
    torch.testing.assert_close(gem(-tokens), torch.full((3, 5), 1e-6))


def test_registers_are_no_patches():
    tokens = torch.rand(3, 9, 5)
    expected = torch.cat([tokens[:, 0], gem(tokens[:, 4:])], dim=1)
    assert torch.equal(cls_and_gem(tokens, 4), expected)


def test_whitened_features_have_unit_second_moment():
    torch.manual_seed(0)
    features = torch.randn(400, 6) @ torch.randn(6, 6)
    features -= features.mean(dim=0)
    moments = Moments()
    moments.add(features)
    white = Whitening.of(moments).apply(features)
    torch.testing.assert_close(white.T @ white / len(white), torch.eye(6).double())
    scales = Whitening.of(moments).matrix.norm(dim=1)  # the strongest axis is shrunk most
    assert (scales.diff() > 0).all()
