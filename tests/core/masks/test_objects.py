"""Masks from keys, against slow versions written out and scenes whose answer is known."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from dino_cli.core.masks.objects import (
    best_heads,
    certainties,
    components,
    cut_masks,
    overlap,
    seeded_masks,
    token_masks,
)
from dino_cli.core.masks.threshold import threshold_mass


def _scene(seed=0, size=(9, 11), heads=3, width=16, noise=0.25):
    """An object of 5 × 4 patches: its keys differ from the background's beside a large common part;
    heads attend to a part of it, and a little to anything."""
    g = torch.Generator().manual_seed(seed)
    truth = torch.zeros(size, dtype=torch.bool)
    truth[2:7, 3:7] = True
    direction, common = torch.randn(2, width, generator=g)
    keys = 4 * common + torch.where(truth.flatten()[:, None], direction, -direction)
    keys = keys + noise * torch.randn(len(keys), width, generator=g)
    attention = 0.002 * torch.rand(heads, *size, generator=g)
    attention[:, 3:6, 4:6] += 0.1 * torch.rand(heads, 3, 2, generator=g) + 0.02
    return attention[None], keys[None], truth


def _flood(mask):
    """Sets of 4-connected cells, by flood fill."""
    left = {(int(y), int(x)) for y, x in np.argwhere(mask)}
    found = []
    while left:
        edge, piece = [left.pop()], set()
        while edge:
            y, x = edge.pop()
            piece.add((y, x))
            for near in ((y + 1, x), (y - 1, x), (y, x + 1), (y, x - 1)):
                if near in left:
                    left.remove(near)
                    edge.append(near)
        found.append(piece)
    return found


def _slow_seeded(attention, keys, share=0.6, rounds=1):
    mean = attention.double().mean(0)
    near = threshold_mass(mean, share).flatten()
    unit = F.normalize(keys.double(), dim=1)
    for _ in range(rounds):
        inner, outer = unit[near].mean(0), unit[~near].mean(0)
        near = torch.tensor([bool((k - inner).norm() < (k - outer).norm()) for k in unit])
    mask = near.reshape(mean.shape).numpy()
    total = float(mean[torch.from_numpy(mask)].sum())
    kept = np.zeros_like(mask)
    for piece in _flood(mask):
        if sum(float(mean[y, x]) for y, x in piece) >= 0.15 * total:
            for y, x in piece:
                kept[y, x] = True
    return kept


def test_components_equal_flood_fill():
    masks = np.random.default_rng(0).random((20, 7, 9)) < 0.5
    for mask in masks:
        labels = components(mask)
        assert ((labels > 0) == mask).all()
        pieces = [
            {(int(y), int(x)) for y, x in np.argwhere(labels == n)}
            for n in range(1, labels.max() + 1)
        ]
        assert sorted(map(sorted, pieces)) == sorted(map(sorted, _flood(mask)))


def test_seeded_finds_the_object_that_is_half_attended():
    attention, keys, truth = _scene()
    assert int(threshold_mass(attention.mean(1), 0.6).sum()) < int(truth.sum()) / 2
    assert torch.equal(seeded_masks(attention, keys)[0], truth)


@pytest.mark.parametrize("noise", [0.5, 2.0, 5.0])
def test_seeded_equals_the_definition(noise):
    scenes = [_scene(seed, noise=noise) for seed in range(5)]
    attention = torch.cat([scene[0] for scene in scenes])
    keys = torch.cat([scene[1] for scene in scenes])
    masks = seeded_masks(attention, keys)
    for i in range(5):
        assert np.array_equal(masks[i].numpy(), _slow_seeded(attention[i], keys[i]))


@pytest.mark.parametrize("noise", [0.5, 2.0, 5.0])
def test_token_masks_assign_twice(noise):
    for seed in range(5):
        attention, tokens, _ = _scene(seed, noise=noise)
        expected = _slow_seeded(attention[0], tokens[0], share=0.5, rounds=2)
        assert np.array_equal(token_masks(attention, tokens)[0].numpy(), expected)


def test_certainty_is_a_clear_place_between_the_means():
    _, keys, truth = _scene(noise=3.0)
    found = certainties(keys, truth[None])[0]
    unit = F.normalize(keys[0].double(), dim=1)
    inner, outer = unit[truth.flatten()].mean(0), unit[~truth.flatten()].mean(0)
    for patch, value in zip(unit, found.flatten(), strict=True):
        place = float((patch - outer) @ (inner - outer) / (inner - outer).square().sum())
        assert float(value) == float(not 0.3 <= place <= 0.7)
    assert 0 < found.mean() < 1
    assert (
        certainties(keys, truth[None])[0].mean()
        < certainties(_scene(noise=0.1)[1], truth[None])[0].mean()
    )


@pytest.mark.parametrize("value", [True, False])
def test_a_mask_of_everything_or_nothing_is_not_certain(value):
    _, keys, truth = _scene()
    assert not certainties(keys, torch.full_like(truth, value)[None]).any()


@pytest.mark.parametrize(("share", "kept"), [(0.14, False), (0.16, True), (0.4, True)])
def test_seeded_drops_fragments_with_little_of_the_attention_that_is_kept(share, kept):
    attention, keys, truth = _scene(noise=0.0)
    keys = keys.reshape(9, 11, -1)
    keys[0, 0] = keys[8, 10] = keys[3, 4]  # two patches like the object, apart from it
    attention[:, :, 0, 0] = 0
    attention[:, :, 8, 10] = share / (1 - share) * attention.mean(1)[0, truth].sum()
    mask = seeded_masks(attention, keys.reshape(1, 99, -1))[0]
    truth[8, 10] = kept
    assert torch.equal(mask, truth)


def test_of_fragments_that_are_all_small_the_most_attended_stays():
    attention, keys, _ = _scene(noise=0.0)
    keys = keys.reshape(9, 11, -1)
    like, unlike = keys[3, 4].clone(), keys[0, 0].clone()
    keys[:], attention[:] = unlike, 1e-6
    keys[::4, ::3] = like  # 3 x 4 of them
    attention[:, :, ::4, ::3] = 0.1
    attention[:, :, 4, 6] = 0.11
    mask = seeded_masks(attention, keys.reshape(1, 99, -1))[0]
    assert mask.nonzero().tolist() == [[4, 6]]


def test_keys_that_are_all_alike_leave_what_is_attended():
    attention, keys, _ = _scene()
    seed = threshold_mass(attention.mean(1), 0.6)
    assert torch.equal(seeded_masks(attention, keys[:, :1].expand_as(keys)), seed)


@pytest.mark.parametrize("size", [(1, 1), (1, 3), (4, 4)])
def test_masks_are_never_empty(size):
    n = size[0] * size[1]
    same = torch.ones(1, n, 8)
    attention = torch.full((1, 2, *size), 0.5 / n)
    assert seeded_masks(attention, same).any()
    assert token_masks(attention, same).any()
    assert cut_masks(attention, same).any()
    random = torch.randn(1, n, 8, generator=torch.Generator().manual_seed(0))
    assert seeded_masks(attention, random).any()
    assert token_masks(attention, random).any()
    assert cut_masks(attention, random).any()


def _dense_cut(attention, keys):
    """TokenCut with LAPACK's eigenvectors, in float64."""
    mean = attention.double().mean(0).numpy()
    unit = F.normalize(keys.double(), dim=1).numpy()
    cosines = unit @ unit.T
    graph = np.where(cosines > cosines.mean(), 1.0, 1e-5)
    root = np.sqrt(graph.sum(1))
    _, vectors = np.linalg.eigh(graph / root[:, None] / root)
    vector = (vectors[:, -2] / root).reshape(mean.shape)
    side = vector > vector.mean()
    if mean[side].mean() < mean[~side].mean():
        side, vector = ~side, -vector
    extreme = np.unravel_index(np.where(side, vector, -np.inf).argmax(), side.shape)
    kept = np.zeros_like(side)
    for piece in _flood(side):
        if tuple(map(int, extreme)) in piece:
            for y, x in piece:
                kept[y, x] = True
    return kept


@pytest.mark.parametrize(("noise", "apart"), [(0.5, False), (1.5, False), (1.5, True)])
def test_cut_equals_a_dense_eigensolver(noise, apart):
    for seed in range(4):
        attention, keys, _ = _scene(seed, noise=noise)
        if apart:  # a second part, attended most, but not the most extreme
            keys[:, 9:11] = keys[:, 37:39]
            attention[..., 0, 9:11] = 0.5
        assert np.array_equal(
            cut_masks(attention, keys)[0].numpy(), _dense_cut(attention[0], keys[0])
        )


def test_cut_finds_the_object_whatever_the_sign_of_the_eigenvector():
    for seed in range(4):
        attention, keys, truth = _scene(seed)
        assert torch.equal(cut_masks(attention, keys)[0], truth)
        attention = attention + 0.1  # more on the background in sum, but less on each patch
        assert torch.equal(cut_masks(attention, keys)[0], truth)


def test_best_head_is_the_one_whose_mask_overlaps_most():
    truth = torch.zeros(2, 4, 4, dtype=torch.bool)
    truth[0, 1:3, 1:3] = truth[1, 1, 1:3] = True
    attention = torch.full((2, 3, 4, 4), 1e-4)
    attention[0, 0, 0, :] = 1.0  # background
    attention[0, 1, 1:3, 1:3] = 1.0  # the object
    attention[0, 2, 1:3, :] = 1.0  # the object and its surroundings
    attention[1, 0, 1:3, :] = 1.0
    attention[1, 1, 0, :] = 1.0
    attention[1, 2, 1, 1:3] = 1.0
    shared = [
        [float((m & t).sum() / (m | t).sum()) for m in threshold_mass(heads, 0.9)]
        for heads, t in zip(attention, truth, strict=True)
    ]
    assert best_heads(attention, truth, 0.9) == [int(np.argmax(row)) for row in shared] == [1, 2]
    assert best_heads(torch.ones(2, 3, 4, 4), truth, 0.9) == [0, 0]


def test_overlap():
    a = torch.tensor([[True, True], [False, False]])
    assert float(overlap(a, a)) == 1.0
    assert float(overlap(a, ~a)) == 0.0
    assert float(overlap(a, torch.tensor([[True, False], [True, False]]))) == pytest.approx(1 / 3)
    assert float(overlap(~a & a, ~a & a)) == 1.0
