"""Object masks from one forward pass: CLS attention, keys as a graph, and the head that fits best.

Shape letters: `B` images, `H` heads, `h` × `w` = `N` patches, `D` width of the keys. Keys are those
of the last block with the heads side by side, bias included, prefix tokens dropped
(`Backbone.cls_attention_and_keys`); attention is CLS to patches from the same pass.
"""

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from dino_cli.core.masks.threshold import threshold_mass

__all__ = [
    "GUESS_BELOW",
    "best_heads",
    "certainties",
    "components",
    "cut_masks",
    "head_overlaps",
    "overlap",
    "seeded_masks",
    "token_masks",
]

SEED_SHARE = 0.6  # of the mean head's attention: the seed of `seeded_masks`
TOKEN_SEED_SHARE = 0.5  # the same for `token_masks`
CLEAR = 0.2  # a patch so far from the middle between two class means is clear
# Below such a score a mask is a guess. Chosen on a third of ECSSD; on the rest the masks so told
# have a mean IoU of .56, .66 and .51, the others of .85, .87 and .83 (`tests/benchmarks`).
GUESS_BELOW = {"seeded": 0.88, "tokens": 0.88, "cut": 0.64}
FRAGMENT_SHARE = 0.15  # a component with less of the kept attention is dropped
DISSIMILAR = 1e-5  # edge weight of patches that are not alike (TokenCut)
LANCZOS_STEPS = 40  # as many give the masks of a dense eigensolver


def seeded_masks(attention: Tensor, keys: Tensor) -> Tensor:
    """The objects that CLS attends to, as the patches whose keys resemble the attended ones.

    The patches with 60 % of the heads' mean attention are the seed; every patch goes to the nearer
    of two class means, of the unit-length keys inside and outside the seed; fragments (4-connected
    components with less than 15 % of the kept attention) are dropped. One assignment, no iteration:
    linear in the patches.

    attention: (B, H, h, w), keys: (B, N, D) → bool (B, h, w) on the CPU, never empty.
    """
    mean = attention.float().mean(dim=1)
    seed = threshold_mass(mean, SEED_SHARE)
    return _grown(mean, seed, keys, rounds=1)


def token_masks(attention: Tensor, tokens: Tensor) -> Tensor:
    """As `seeded_masks`, of the tokens that leave the network, and assigned twice.

    The seed is the patches with 50 % of the mean attention; after the first assignment the class
    means are taken anew. The output tokens tell an object from its surroundings better than the
    last block's keys do, small objects and several ones above all, for the price of that block.

    attention: (B, H, h, w), tokens after the final norm: (B, N, D) → bool (B, h, w) on the CPU,
    never empty.
    """
    mean = attention.float().mean(dim=1)
    return _grown(mean, threshold_mass(mean, TOKEN_SEED_SHARE), tokens, rounds=2)


def certainties(features: Tensor, masks: Tensor) -> Tensor:
    """How clearly each patch lies on its side of a mask: 1 where it does, else 0.

    A patch's place between the means of the features outside (0) and inside the mask (1), measured
    along the line between them, is clear when it is below .3 or above .7. The share of clear
    patches tells good masks from bad ones without truth.

    features: keys or tokens (B, N, D); masks: bool (B, h, w) → float32 (B, h, w), on the features'
    device. All 0 where a mask is empty or full.
    """
    unit = F.normalize(features.float(), dim=-1)
    inside = masks.to(unit.device).flatten(1).to(unit.dtype)
    place, _ = _place(unit, inside)
    clear = ((place - 0.5).abs() > CLEAR).float()
    split = (inside.amin(1) < inside.amax(1)).unsqueeze(1)
    return torch.where(split, clear, 0.0).reshape(masks.shape)


def cut_masks(attention: Tensor, keys: Tensor) -> Tensor:
    """Normalised cut of the patch graph (TokenCut, Wang et al. 2022), with two changes.

    Patches are joined when their keys' cosine exceeds the image's mean cosine, since the published
    threshold of .2 joins everything where keys share a large common part; and the foreground is the
    side with more attention per patch. The component of its most extreme patch is kept. Quadratic
    in the patches, in time and memory.

    attention: (B, H, h, w), keys: (B, N, D) → bool (B, h, w) on the CPU, never empty.
    """
    mean = attention.float().mean(dim=1)
    cuts = [_cut(weight, key) for weight, key in zip(mean, keys.float(), strict=True)]
    return torch.from_numpy(np.stack(cuts))


def best_heads(attention: Tensor, references: Tensor, threshold: float) -> list[int]:
    """Per image the head whose mask at `threshold` overlaps most with a reference mask.

    Needs no truth: with `seeded_masks` as references it avoids heads that look at the background.
    attention: (B, H, h, w), references: bool (B, h, w). The lowest number wins a tie.
    """
    masks = threshold_mass(attention.float(), threshold)
    return [int(row.argmax()) for row in head_overlaps(masks, references)]


def head_overlaps(masks: Tensor, references: Tensor) -> Tensor:
    """Intersection over union of each mask (B, H, h, w) with its image's reference (B, h, w)."""
    return overlap(masks, references.to(masks.device).unsqueeze(1)).cpu()


def overlap(a: Tensor, b: Tensor) -> Tensor:
    """Intersection over union of bool masks, over the last two dimensions; 1 if both are empty."""
    both = (a & b).flatten(-2).sum(-1).double()
    either = (a | b).flatten(-2).sum(-1).double()
    return torch.where(either > 0, both / either.clamp(min=1), 1.0)


def components(mask: NDArray[np.bool_]) -> NDArray[np.int32]:
    """Number the 4-connected components of a mask (h, w) from 1; 0 is outside."""
    _, labels = cv2.connectedComponents(mask.astype(np.uint8), connectivity=4)
    return np.asarray(labels, np.int32)


def _grown(mean: Tensor, seed: Tensor, features: Tensor, *, rounds: int) -> Tensor:
    """Each patch to the nearer of the class means inside and outside the seed, without fragments.

    rounds: assignments; from the second on the last one is the seed.
    """
    unit = F.normalize(features.float(), dim=-1)
    nearer = seed.flatten(1)
    for _ in range(rounds):
        place, apart = _place(unit, nearer.to(unit.dtype))
        grown = (place > 0.5) & apart
        nearer = torch.where(grown.any(1, keepdim=True), grown, nearer)
    masks = nearer.reshape(mean.shape).cpu().numpy()
    weights = mean.cpu().numpy()
    kept = [_without_fragments(mask, weight) for mask, weight in zip(masks, weights, strict=True)]
    return torch.from_numpy(np.stack(kept))


def _place(unit: Tensor, inside: Tensor) -> tuple[Tensor, Tensor]:
    """Where features (B, N, D) lie between the means of those outside (0) and inside (1): (B, N).

    inside: 0 or 1, (B, N). .5 is as near to the one as to the other. Also whether the two means
    differ, (B, 1); where they do not, the places mean nothing.
    """
    inner, outer = _mean_where(unit, inside), _mean_where(unit, 1 - inside)
    across = inner - outer
    length = across.square().sum(-1, keepdim=True)
    middle = ((inner + outer) * across).sum(-1, keepdim=True) / 2
    place = ((unit @ across.unsqueeze(-1)).squeeze(-1) - middle) / length.clamp(min=1e-12)
    return place + 0.5, length > 1e-12


def _mean_where(values: Tensor, inside: Tensor) -> Tensor:
    """Mean over N of values (B, N, D) where inside (B, N) is 1; zero where nothing is."""
    total = (inside.unsqueeze(1) @ values).squeeze(1)
    return total / inside.sum(dim=1, keepdim=True).clamp(min=1)


def _without_fragments(mask: NDArray[np.bool_], weight: NDArray[np.float32]) -> NDArray[np.bool_]:
    labels = components(mask)
    mass = np.bincount(labels.ravel(), weights=weight.ravel().astype(np.float64))
    mass[0] = 0
    keep = mass >= FRAGMENT_SHARE * mass.sum()
    keep[int(mass.argmax())] = True  # all may be small
    keep[0] = False
    return np.asarray(keep[labels])


def _cut(weight: Tensor, keys: Tensor) -> NDArray[np.bool_]:
    unit = F.normalize(keys, dim=-1)
    cosines = unit @ unit.T
    graph = torch.where(cosines > cosines.mean(), 1.0, DISSIMILAR)
    vector = _second_eigenvector(graph).reshape(weight.shape)
    side = vector > vector.mean()
    if not side.any():  # one patch, or patches that are all alike
        return np.ones(tuple(weight.shape), dtype=bool)
    if weight[side].mean() < weight[~side].mean():
        side, vector = ~side, -vector
    extreme = int(torch.where(side, vector, -torch.inf).argmax())
    labels = components(side.cpu().numpy())
    return np.asarray(labels == labels.ravel()[extreme])


def _second_eigenvector(graph: Tensor) -> Tensor:
    """D^-½ times the second eigenvector of D^-½ A D^-½, for a symmetric positive A (N, N) → (N,).

    The first one is known, √d, so Lanczos runs in its complement, with full reorthogonalisation.
    """
    n = graph.shape[0]
    root = graph.sum(dim=1).sqrt()
    basis = [root / root.norm()]
    start = torch.randn(n, generator=torch.Generator().manual_seed(0)).to(graph)
    diagonal, beside = [], []  # of the tridiagonal matrix, which stays on the device
    for step in range(min(LANCZOS_STEPS, n - 1) + 1):
        stacked = torch.stack(basis)
        for _ in range(2):  # twice is enough (Parlett)
            start = start - stacked.T @ (stacked @ start)
        length = start.norm()
        if step:
            beside.append(length)
        if step == min(LANCZOS_STEPS, n - 1) or length < 1e-6:
            break
        basis.append(start / length)
        image = (graph @ (basis[-1] / root)) / root
        diagonal.append(basis[-1] @ image)
        start = image
    if not diagonal:
        return torch.zeros(n, device=graph.device)
    small = torch.diag(torch.stack(diagonal))
    if len(diagonal) > 1:
        edge = torch.stack(beside[: len(diagonal) - 1])
        small = small + torch.diag(edge, 1) + torch.diag(edge, -1)
    weights = torch.linalg.eigh(small.double())[1][:, -1].to(graph)
    vector: Tensor = (torch.stack(basis[1:]).T @ weights) / root
    return vector
