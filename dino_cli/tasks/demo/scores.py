"""What the demo measures, on drawings whose class and outline are known."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dino_cli.core.evaluation.neighbors import nearest, votes
from dino_cli.core.masks.objects import overlap
from dino_cli.core.masks.threshold import threshold_mass
from dino_cli.data.preprocess import normalize
from dino_cli.errors import UsageError
from dino_cli.tasks.model import Model

__all__ = [
    "SHARE",
    "SHARES",
    "TEMPERATURE",
    "K",
    "MaskScore",
    "Votes",
    "attention_of",
    "best_box",
    "chroma",
    "classify",
    "features_of",
    "histograms",
    "input_sizes",
    "iou",
    "on_object",
]

K, TEMPERATURE = 20, 0.07
SHARE = 0.6  # of the attention that a mask keeps, as in the paper
SHARES = (0.5, 0.6, 0.7, 0.8, 0.9)  # among which the demo shows what that choice does
FOUND = 0.5  # the overlap from which an object counts as found
BINS = 8  # of a colour histogram, per channel
BOXES = 16  # heights, and widths, among which the best centred box is searched

Images = NDArray[np.uint8]
Advance = Callable[[int], None]


def input_sizes(model: Model) -> tuple[int, int]:
    """Pixels of the drawings for features and for attention, both whole numbers of patches.

    Drawings have no size of their own, so they are drawn as large as the network takes its images,
    and need no resizing. Raises `UsageError` for a network without attention.
    """
    if not model.backbone.has_attention:
        raise UsageError(
            f"{model.weights.name} has no attention of a class token to its patches",
            "show a vision transformer, such as --model dino_vits16",
        )
    p, patch_size = model.preprocessing, model.backbone.patch_size
    resized = p.resize if isinstance(p.resize, int) else min(p.resize or (224,))
    small, large = min(p.cut or (resized,)), model.weights.attention_size
    whole_small, whole_large = (max(1, side // patch_size) * patch_size for side in (small, large))
    return whole_small, whole_large


def features_of(
    model: Model, images: Images, *, batch: int, advance: Advance = lambda _: None
) -> NDArray[np.float32]:
    """CLS features, float32 (N, D), of images (N, S, S, 3)."""
    return _asked(model.backbone.features, model, images, batch, advance).numpy()


def attention_of(
    model: Model, images: Images, *, batch: int, advance: Advance = lambda _: None
) -> Tensor:
    """Last-block CLS attention of images (N, S, S, 3): float32 (N, H, h, w) on the CPU."""
    return _asked(model.backbone.cls_attention, model, images, batch, advance)


def _asked(
    ask: Callable[[Tensor], Tensor], model: Model, images: Images, batch: int, advance: Advance
) -> Tensor:
    """What a backbone's method says of normalised images, batch by batch, on the CPU."""
    rows = []
    for pixels in _batches(images, batch):
        with model.autocast():
            rows.append(ask(normalize(pixels, model.preprocessing, model.device)).cpu())
        advance(len(pixels))
    return torch.cat(rows)


def _batches(images: Images, batch: int) -> list[Tensor]:
    return [
        torch.from_numpy(images[i : i + batch]).permute(0, 3, 1, 2)
        for i in range(0, len(images), batch)
    ]


@dataclass(frozen=True, kw_only=True)
class Votes:
    """top1: percent right. rows: int64 (Q, K), the neighbours in the bank, nearest first."""

    top1: float
    rows: NDArray[np.int64]


def classify(
    bank: NDArray[np.float32],
    bank_labels: NDArray[np.int64],
    queries: NDArray[np.float32],
    labels: NDArray[np.int64],
) -> Votes:
    """Weighted k-NN as `dino knn` does it, with k 20 (or the whole bank) and temperature 0.07."""
    classes = int(max(bank_labels.max(), labels.max())) + 1
    right, rows = 0, []
    at = 0
    for similarities, found in nearest(queries, bank, min(K, len(bank))):
        order, _ = votes(similarities, torch.from_numpy(bank_labels)[found], classes, TEMPERATURE)
        mine = labels[at : at + len(found)]
        right += int((order[:, 0].numpy() == mine).sum())
        rows.append(found.numpy())
        at += len(found)
    return Votes(top1=100 * right / len(labels), rows=np.concatenate(rows))


def histograms(images: Images) -> NDArray[np.float32]:
    """Joint colour histograms of images (N, S, S, 3), 8 bins a channel: float32 (N, 512).

    Roots of the shares, so that the cosine of two is their Bhattacharyya coefficient.
    """
    bins = (images // (256 // BINS)).astype(np.int64)
    codes = ((bins[..., 0] * BINS + bins[..., 1]) * BINS + bins[..., 2]).reshape(len(images), -1)
    counts = np.stack([np.bincount(row, minlength=BINS**3) for row in codes])
    return np.sqrt(counts / codes.shape[1]).astype(np.float32)


@dataclass(frozen=True, kw_only=True)
class MaskScore:
    """iou: mean overlap with the true outlines; found: percent of objects with at least 0.5."""

    iou: float
    found: float

    @staticmethod
    def of(overlaps: Tensor) -> "MaskScore":
        """From the overlap of every image, (N,)."""
        found = 100 * (overlaps >= FOUND).double().mean()
        return MaskScore(iou=float(overlaps.mean()), found=float(found))

    def json(self) -> dict[str, Any]:
        return {"iou": self.iou, "found": self.found}


def iou(maps: Tensor, masks: NDArray[np.bool_], share: float = SHARE) -> Tensor:
    """Overlap of the mask that keeps a share of each map (N, M, h, w) with the true (N, S, S).

    Compared pixel by pixel: S is a whole multiple of h and w. Returns (N, M).
    """
    patch_size = masks.shape[-1] // maps.shape[-1]
    kept = threshold_mass(maps, share)
    kept = kept.repeat_interleave(patch_size, -2).repeat_interleave(patch_size, -1)
    return overlap(kept, torch.from_numpy(masks)[:, None])


def on_object(maps: Tensor, masks: NDArray[np.bool_]) -> Tensor:
    """The part of each map (N, M, h, w) that lies on the object of the true mask (N, S, S): (N, M).

    A map that is even over the object and has this much on it can overlap with it by no more than
    the share that a mask keeps, divided by it.
    """
    patch_size = masks.shape[-1] // maps.shape[-1]
    covered = torch.nn.functional.avg_pool2d(torch.from_numpy(masks).float()[:, None], patch_size)
    return (maps * covered).sum(dim=(-2, -1)) / maps.sum(dim=(-2, -1))


def chroma(images: Images, patch_size: int) -> Tensor:
    """How colourful each patch is: mean of max - min over the channels, float32 (N, 1, h, w)."""
    spread = torch.from_numpy(np.ptp(images, axis=-1).astype(np.float32))[:, None]
    return torch.nn.functional.avg_pool2d(spread, patch_size)


def best_box(masks: NDArray[np.bool_]) -> tuple[tuple[int, int], Tensor]:
    """The one centred box that overlaps most with all masks (N, S, S), and its overlaps (N,).

    Height and width in pixels, among 16 each. It knows the masks, so it is a bound for every guess
    that does not look at the image.
    """
    size = masks.shape[-1]
    sums = np.zeros((len(masks), size + 1, size + 1))
    sums[:, 1:, 1:] = masks.cumsum(1).cumsum(2)
    total = sums[:, -1, -1]
    lengths = sorted({max(1, round(size * i / BOXES)) for i in range(1, BOXES + 1)})
    best: tuple[float, tuple[int, int], NDArray[np.float64]] = (-1.0, (0, 0), total)
    for height in lengths:
        top = (size - height) // 2
        for width in lengths:
            left = (size - width) // 2
            rows = sums[:, top + height] - sums[:, top]
            inside = rows[:, left + width] - rows[:, left]
            overlaps = inside / (height * width + total - inside)
            if overlaps.mean() > best[0]:
                best = (float(overlaps.mean()), (height, width), overlaps)
    return best[1], torch.from_numpy(best[2])
