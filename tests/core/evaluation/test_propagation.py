"""Label propagation against the original's numbers and against one matrix of all pairs."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from golden_files import Golden, eval_golden_folder
from PIL import Image

from dino_cli.core.evaluation import propagation
from dino_cli.core.evaluation.propagation import Propagation, enlarge, near, propagate

GOLDEN = Golden(eval_golden_folder())
SOFT, PIXELS = 1e-5, 1e-4


@pytest.mark.golden
@pytest.mark.parametrize("name", GOLDEN.json("video")["cases"])
def test_whole_video_as_the_original(name):
    facts, files = GOLDEN.json("video"), GOLDEN.tensors("video")
    with np.load(eval_golden_folder() / "video_labels.npz") as maps:
        upsampled, labels = maps[f"{name}.labels_upsampled"], maps[f"{name}.labels"]
    case, patch = facts["cases"][name], facts["patch_size"]
    run = Propagation(
        files["features"][0],
        files[f"first_{case['first']}"],
        frames=case["n_last_frames"],
        reach=case["size_mask_neighborhood"],
        topk=case["topk"],
        temperature=facts["temperature"],
    )
    height, width = facts["original_size"]
    wrong = [0, 0]
    for i, tokens in enumerate(files["features"][1:]):
        soft = run.step(tokens)
        torch.testing.assert_close(soft, files[f"{name}.soft"][i], atol=SOFT, rtol=0)
        large = enlarge(soft, patch)
        ours = large.argmax(dim=0).to(torch.uint8).numpy()
        resized = Image.fromarray(ours).resize((width, height), Image.Resampling.NEAREST)
        wrong[0] += int((ours != upsampled[i]).sum())
        wrong[1] += int((np.asarray(resized) != labels[i]).sum())
    expected = files[f"{name}.normed_last_sample"]
    torch.testing.assert_close(large[:, ::5, ::5], expected, atol=SOFT, rtol=0)
    assert wrong[0] <= PIXELS * upsampled.size
    assert wrong[1] <= PIXELS * labels.size


@pytest.mark.golden
def test_neighbourhood_as_the_original():
    files = GOLDEN.tensors("video")
    for name, expected in files.items():
        if not name.startswith("restrict_neighborhood_"):
            continue
        reach, size = name.removeprefix("restrict_neighborhood_").split("_on_")
        rows, columns = (slice(0, int(side)) for side in size.split("x"))
        ours = near((rows, columns), (rows, columns), int(reach))
        assert torch.equal(ours.to(expected), expected)


def all_pairs(target, context, masks, reach, topk):
    """The rule in one matrix, entry by entry as it is written down."""
    _, labels, h, w = masks.shape
    weights = torch.exp(torch.einsum("nd,tmd->ntm", target, context) / 0.1)
    for i in range(h * w):
        for j in range(h * w):
            apart = max(abs(i // w - j // w), abs(i % w - j % w))
            if reach and apart > reach:
                weights[i, :, j] = 0
    weights = weights.flatten(1)
    kept = torch.where(weights >= weights.sort(dim=1).values[:, -topk, None], weights, 0.0)
    kept = kept / kept.sum(dim=1, keepdim=True)
    flat = masks.permute(1, 0, 2, 3).reshape(labels, -1)
    return (flat @ kept.T).view(labels, h, w)


@pytest.mark.parametrize("reach", [0, 1, 3, 6])
@pytest.mark.parametrize("tile", [1, 2, 4, 16])
def test_tiles_equal_one_matrix_of_all_pairs(monkeypatch, reach, tile):
    monkeypatch.setattr(propagation, "TILE", tile)
    torch.manual_seed(0)
    h, w = 5, 7
    target = F.normalize(torch.randn(h * w, 8, dtype=torch.float64), dim=1)
    context = F.normalize(torch.randn(3, h * w, 8, dtype=torch.float64), dim=2)
    masks = torch.rand(3, 2, h, w, dtype=torch.float64)
    ours = propagate(target, context, masks, reach=reach, topk=4)
    torch.testing.assert_close(ours, all_pairs(target, context, masks, reach, 4))


def test_a_still_video_keeps_its_labels():
    torch.manual_seed(0)
    tokens = torch.randn(6 * 6, 32)
    mask = F.one_hot(torch.randint(0, 3, (6, 6)), 3).permute(2, 0, 1)
    run = Propagation(tokens, mask, frames=2, topk=1)
    for _ in range(4):
        torch.testing.assert_close(run.step(5 * tokens), mask.float())


def test_fewer_patches_than_kept_and_no_earlier_frames():
    mask = torch.tensor([[[1.0, 0.0]], [[0.0, 1.0]]])
    run = Propagation(torch.eye(2), mask, frames=0, reach=0, topk=5)
    soft = run.step(torch.eye(2))
    share = 1 / (1 + np.exp(-10))
    expected = torch.tensor([[[share, 1 - share]], [[1 - share, share]]], dtype=torch.float32)
    torch.testing.assert_close(soft, expected)
    assert not run.earlier


def test_enlarging_spreads_each_label():
    soft = torch.tensor([[[0.8, 0.9]], [[0.2, 0.1]]])
    large = enlarge(soft, 2)
    assert large.shape == (2, 2, 4)
    torch.testing.assert_close(large[:, 0, 0], torch.tensor([0.0, 1.0]))
    torch.testing.assert_close(large[:, 1, 3], torch.tensor([1.0, 0.0]))
    # A label that is everywhere, or nowhere, is no division by zero.
    only = enlarge(torch.stack([torch.zeros(2, 3), torch.ones(2, 3)]), 4)
    assert torch.equal(only[0], torch.zeros(8, 12))
    assert torch.equal(only[1], torch.ones(8, 12))
