"""Labels of a video's first frame, carried on by the similarity of patches (paper, table 5).

Shapes: T context frames, C labels, N = h · w patches, D features.
"""

import sys
from collections import deque

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["Propagation", "enlarge", "near", "propagate"]

TILE = 16  # side in patches of the targets that are compared at a time; bounds the memory


class Propagation:
    """Carries labels from frame to frame. The first frame always stays in the context.

    first: (N, D) patch tokens of the first frame; mask: (C, h, w), its labels, one channel each.
    frames: how many earlier frames' soft labels are context beside the first frame's. reach, topk,
    temperature: see `propagate`.
    """

    def __init__(
        self,
        first: Tensor,
        mask: Tensor,
        *,
        frames: int = 7,
        reach: int = 12,
        topk: int = 5,
        temperature: float = 0.1,
    ) -> None:
        self.first = F.normalize(first.float(), dim=1), mask.float()
        self.earlier: deque[tuple[Tensor, Tensor]] = deque(maxlen=min(frames, sys.maxsize))
        self.reach, self.topk, self.temperature = reach, topk, temperature

    def step(self, tokens: Tensor) -> Tensor:
        """Soft labels (C, h, w) of the next frame from its patch tokens (N, D), in any scale."""
        target = F.normalize(tokens.float(), dim=1)
        context = [self.first, *self.earlier]
        soft = propagate(
            target,
            torch.stack([features for features, _ in context]),
            torch.stack([mask for _, mask in context]),
            reach=self.reach,
            topk=self.topk,
            temperature=self.temperature,
        )
        self.earlier.append((target, soft))
        return soft


def propagate(
    target: Tensor,
    context: Tensor,
    masks: Tensor,
    *,
    reach: int = 12,
    topk: int = 5,
    temperature: float = 0.1,
) -> Tensor:
    """Soft labels (C, h, w) of a frame: a weighted mean over the most similar context patches.

    target: (N, D), context: (T, N, D), both of length 1; masks: (T, C, h, w). A patch weighs
    exp(cosine / temperature), and nothing beyond `reach` rows or columns (0: no such limit). Of
    each target's weights, over all frames together, those stay that are at least the `topk`-th
    largest, divided by their sum.

    The targets are compared tile by tile, with the context that they can reach: the result is that
    of the original's one matrix of all pairs, whose memory would grow with N².
    """
    frames, labels, h, w = masks.shape
    reach = min(reach, max(h, w))  # as far as there are patches; torch takes no endless number
    target, context = target.view(h, w, -1), context.view(frames, h, w, -1)
    soft = masks.new_empty(labels, h, w)
    for top in range(0, h, TILE):
        for left in range(0, w, TILE):
            rows, columns = slice(top, min(top + TILE, h)), slice(left, min(left + TILE, w))
            source = _reached(rows, h, reach), _reached(columns, w, reach)
            query = target[rows, columns].flatten(0, 1)
            keys = context[:, source[0], source[1]].flatten(0, 2)
            values = masks[:, :, source[0], source[1]].permute(0, 2, 3, 1).flatten(0, 2)
            weights = torch.exp(query @ keys.T / temperature)
            if reach:
                window = near((rows, columns), source, reach).to(weights)
                weights.view(len(query), frames, -1).mul_(window[:, None])
            smallest = weights.topk(min(topk, weights.shape[1]), dim=1).values[:, -1:]
            weights.masked_fill_(weights < smallest, 0)
            weights /= weights.sum(dim=1, keepdim=True)
            soft[:, rows, columns] = (weights @ values).T.reshape(labels, *_sides(rows, columns))
    return soft


def near(target: tuple[slice, slice], source: tuple[slice, slice], reach: int) -> Tensor:
    """Which patches of two rectangles (rows, columns) are at most `reach` apart in both directions.

    bool (targets, sources), each in reading order.
    """
    close = [
        (torch.arange(at.start, at.stop)[:, None] - torch.arange(other.start, other.stop)).abs()
        <= reach
        for at, other in zip(target, source, strict=True)
    ]
    rows, columns = close
    return (rows[:, None, :, None] & columns[None, :, None, :]).flatten(0, 1).flatten(1)


def enlarge(soft: Tensor, patch_size: int) -> Tensor:
    """Soft labels (C, h, w) at the pixels, (C, h·patch, w·patch), each channel spread over [0, 1].

    Bilinear; then minus the channel's minimum, over its maximum, so that a label whose weights are
    small everywhere can win. The label of a pixel is the `argmax` of the channels.
    """
    large = F.interpolate(
        soft[None],
        size=(soft.shape[1] * patch_size, soft.shape[2] * patch_size),
        mode="bilinear",
        align_corners=False,
    )[0]
    flat = large.flatten(1)
    low, high = flat.amin(dim=1)[:, None, None], flat.amax(dim=1)[:, None, None]
    # A constant channel, where the original divides 0 by 0, keeps its place: all of it, or nothing.
    spread = torch.where(high > low, high - low, high.clamp(min=torch.finfo(large.dtype).tiny))
    return torch.where(high > low, large - low, large) / spread


def _reached(at: slice, count: int, reach: int) -> slice:
    if not reach:
        return slice(0, count)
    return slice(max(0, at.start - reach), min(count, at.stop + reach))


def _sides(rows: slice, columns: slice) -> tuple[int, int]:
    return rows.stop - rows.start, columns.stop - columns.start
