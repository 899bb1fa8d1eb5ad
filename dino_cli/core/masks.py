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

from dino_cli.core.attention import threshold_mass

__all__ = ["best_heads", "components", "cut_masks", "overlap", "seeded_masks"]

SEED_SHARE = 0.6  # of the mean head's attention: the seed of `seeded_masks`
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
    unit = F.normalize(keys.float(), dim=-1)
    inside = seed.flatten(1).to(unit.dtype)
    inner = _mean_where(unit, inside)
    outer = _mean_where(unit, 1 - inside)
    # |k - inner| < |k - outer|, squared and with |k|² cancelled
    score = 2 * (unit @ (inner - outer).unsqueeze(-1)).squeeze(-1)
    nearer = score > (inner.square().sum(-1) - outer.square().sum(-1)).unsqueeze(-1)
    masks = nearer.reshape(mean.shape).cpu().numpy()
    seeds, weights = seed.cpu().numpy(), mean.cpu().numpy()
    kept = [
        _without_fragments(mask if mask.any() else start, weight)
        for mask, start, weight in zip(masks, seeds, weights, strict=True)
    ]
    return torch.from_numpy(np.stack(kept))


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
    shared = overlap(masks, references.to(masks.device).unsqueeze(1))
    return [int(row.argmax()) for row in shared.cpu()]


def overlap(a: Tensor, b: Tensor) -> Tensor:
    """Intersection over union of bool masks, over the last two dimensions; 1 if both are empty."""
    both = (a & b).flatten(-2).sum(-1).double()
    either = (a | b).flatten(-2).sum(-1).double()
    return torch.where(either > 0, both / either.clamp(min=1), 1.0)


def components(mask: NDArray[np.bool_]) -> NDArray[np.int32]:
    """Number the 4-connected components of a mask (h, w) from 1; 0 is outside."""
    _, labels = cv2.connectedComponents(mask.astype(np.uint8), connectivity=4)
    return np.asarray(labels, np.int32)


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
