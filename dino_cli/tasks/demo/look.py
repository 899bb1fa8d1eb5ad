"""What trained and untrained networks make of fresh drawings: the demo's numbers and examples."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dino_cli.core.masks.threshold import threshold_mass
from dino_cli.data.drawings.images import CLASSES
from dino_cli.data.drawings.sets import DrawingSet, Series, draw_sets
from dino_cli.progress import Reporter
from dino_cli.tasks.demo.scores import (
    SHARE,
    SHARES,
    TEMPERATURE,
    K,
    MaskScore,
    Votes,
    attention_of,
    best_box,
    chroma,
    classify,
    features_of,
    histograms,
    iou,
    on_object,
)
from dino_cli.tasks.model import Model

__all__ = [
    "Drawings",
    "Example",
    "NeighborScores",
    "NetworkView",
    "draw_all",
    "examples",
    "look_masks",
    "look_neighbors",
]

PHOTO = 256  # side in pixels of the drawings that a page shows; networks see their own size


@dataclass(frozen=True, kw_only=True)
class Drawings:
    """Everything that is drawn for a demo; each series has a seed of its own."""

    bank: DrawingSet
    queries: DrawingSet
    unseen: DrawingSet
    masks: DrawingSet
    gallery: DrawingSet
    photos: DrawingSet


def draw_all(
    seed: int,
    *,
    bank: int,
    queries: int,
    masks: int,
    gallery: int,
    sides: tuple[int, int],
    processes: int,
    reporter: Reporter,
) -> Drawings:
    """Draw `bank` … `gallery` pictures from the seeds after `seed`.

    sides: pixels for features and for attention. `unseen` are queries on textures that no other
    drawing has; `photos` are those of `gallery`, larger.
    """
    small, large = sides
    series = {
        "bank": Series(seed=seed + 1, count=bank, size=small),
        "queries": Series(seed=seed + 2, count=queries, size=small),
        "unseen": Series(seed=seed + 3, count=queries, size=small, backgrounds="unseen"),
        "masks": Series(seed=seed + 4, count=masks, size=large),
        "gallery": Series(seed=seed + 5, count=gallery, size=large),
        "photos": Series(seed=seed + 5, count=gallery, size=PHOTO),
    }
    reporter.stage("drawing", sum(one.count for one in series.values()))
    sets = draw_sets(list(series.values()), processes=processes, advance=reporter.advance)
    reporter.finish()
    return Drawings(**dict(zip(series, sets, strict=True)))


@dataclass(frozen=True, kw_only=True)
class NeighborScores:
    """numbers: for the result. votes: by network, of the queries on known backgrounds."""

    numbers: dict[str, Any]
    votes: dict[str, Votes]


def look_neighbors(
    networks: dict[str, Model], drawings: Drawings, *, batch: int, reporter: Reporter
) -> NeighborScores:
    """k-NN accuracy of each network's features, and of colour histograms."""
    bank, sets = drawings.bank, {"seen": drawings.queries, "unseen": drawings.unseen}
    total = len(bank.labels) + sum(len(one.labels) for one in sets.values())
    reporter.stage("embedding", total * len(networks))
    top1: dict[str, dict[str, float]] = {}
    kept: dict[str, Votes] = {}

    def score(name: str, features: Sequence[NDArray[np.float32]]) -> None:
        found = {
            key: classify(features[0], bank.labels, queries, one.labels)
            for (key, one), queries in zip(sets.items(), features[1:], strict=True)
        }
        top1[name] = {key: one.top1 for key, one in found.items()}
        kept[name] = found["seen"]

    pictures = [bank.images, *(one.images for one in sets.values())]
    for name, model in networks.items():
        score(
            name, [features_of(model, p, batch=batch, advance=reporter.advance) for p in pictures]
        )
    score("colour_histogram", [histograms(p) for p in pictures])
    reporter.finish()
    numbers = {
        "k": min(K, len(bank.labels)),
        "temperature": TEMPERATURE,
        "bank": len(bank.labels),
        "queries": len(drawings.queries.labels),
        "size": bank.images.shape[1],
        "chance": 100 / len(CLASSES),
        "top1": top1,
    }
    return NeighborScores(numbers=numbers, votes=kept)


def look_masks(
    networks: dict[str, Model], drawings: DrawingSet, *, batch: int, reporter: Reporter
) -> dict[str, Any]:
    """Overlap of attention masks with the true outlines, and of what one gets without a network."""
    reporter.stage("attention", len(drawings.labels) * len(networks))
    result: dict[str, Any] = {
        "images": len(drawings.labels),
        "size": drawings.images.shape[1],
        "share": SHARE,
    }
    patch_size = 1
    for name, model in networks.items():
        maps = attention_of(model, drawings.images, batch=batch, advance=reporter.advance)
        patch_size = model.backbone.patch_size
        by_share = {s: iou(_with_mean(maps), drawings.masks, s) for s in SHARES}
        overlaps = by_share[SHARE]
        heads = overlaps[:, :-1].mean(dim=0)
        best = int(heads.argmax())
        result[name] = {
            "mean": MaskScore.of(overlaps[:, -1]).json(),
            "best_head": {"head": best, **MaskScore.of(overlaps[:, best]).json()},
            "heads": [float(value) for value in heads],
            "on_object": on_object(maps, drawings.masks).mean(dim=0).tolist(),
            "by_share": [
                {
                    "share": share,
                    "mean": float(found[:, -1].mean()),
                    "best_head": float(found[:, :-1].mean(dim=0).max()),
                    "best_of_each": float(found[:, :-1].amax(dim=1).mean()),
                }
                for share, found in by_share.items()
            ],
        }
    reporter.finish()
    (height, width), boxed = best_box(drawings.masks)
    whole = torch.from_numpy(drawings.masks.mean(axis=(1, 2)))
    coloured = iou(chroma(drawings.images, patch_size), drawings.masks)[:, 0]
    result["colourfulness"] = MaskScore.of(coloured).json()
    result["best_box"] = {"height": height, "width": width, **MaskScore.of(boxed).json()}
    result["whole_image"] = MaskScore.of(whole).json()
    return result


@dataclass(frozen=True, kw_only=True)
class NetworkView:
    """What one network looks at in one picture.

    heads: (H, h, w) float32; mean: (h, w); mask: bool (h, w), of the mean; iou: its overlap.
    """

    heads: NDArray[np.float32]
    mean: NDArray[np.float32]
    mask: NDArray[np.bool_]
    iou: float


@dataclass(frozen=True, kw_only=True)
class Example:
    """A drawing (S, S, 3), its object's mask (S, S), and what each network looks at in it."""

    name: str
    photo: NDArray[np.uint8]
    truth: NDArray[np.bool_]
    glances: dict[str, NetworkView]


def examples(
    networks: dict[str, Model], gallery: DrawingSet, photos: DrawingSet, *, batch: int
) -> list[Example]:
    """One example for each drawing of the gallery."""
    seen: dict[str, tuple[Tensor, Tensor, Tensor]] = {}
    for name, model in networks.items():
        maps = _with_mean(attention_of(model, gallery.images, batch=batch))
        masks = threshold_mass(maps[:, -1], SHARE)
        seen[name] = (maps, masks, iou(maps[:, -1:], gallery.masks)[:, 0])
    return [
        Example(
            name=CLASSES[label],
            photo=photos.images[i],
            truth=photos.masks[i],
            glances={
                name: NetworkView(
                    heads=maps[i, :-1].numpy(),
                    mean=maps[i, -1].numpy(),
                    mask=masks[i].numpy(),
                    iou=float(overlaps[i]),
                )
                for name, (maps, masks, overlaps) in seen.items()
            },
        )
        for i, label in enumerate(gallery.labels)
    ]


def _with_mean(maps: Tensor) -> Tensor:
    """Heads (N, H, h, w), and their mean as one more: (N, H + 1, h, w)."""
    return torch.cat([maps, maps.mean(dim=1, keepdim=True)], dim=1)
