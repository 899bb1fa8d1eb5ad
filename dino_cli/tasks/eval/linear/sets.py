"""Labelled images and the frozen features in front of a linear classifier."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from dino_cli.config.eval_linear import EvalLinearConfig
from dino_cli.config.shared import Preprocessing
from dino_cli.core.evaluation.linear import linear_features
from dino_cli.data.listing.image_list import ImageFile
from dino_cli.data.listing.images import find_images
from dino_cli.data.loader import image_batches
from dino_cli.data.preprocess import normalize
from dino_cli.errors import TaskError, UsageError
from dino_cli.progress import Reporter
from dino_cli.tasks.embed.forward import explain_network
from dino_cli.tasks.model import Model
from dino_cli.tasks.unreadable import cannot_read, nothing_read, tell_skipped

__all__ = [
    "FeatureLayer",
    "FeatureSource",
    "FrozenFeatures",
    "extract_features",
    "labelled",
    "with_labels",
]

WIDE = 768  # from ViT-B's width on, the paper takes one block and average pooling


@dataclass(frozen=True)
class FeatureLayer:
    """Where the classifier sits: on CLS of the last `blocks`, with average pooling or not.

    No blocks: on a convnet's pooled features.
    """

    blocks: int
    avgpool: bool

    @staticmethod
    def of(config: EvalLinearConfig, model: Model, width: int | None) -> "FeatureLayer":
        """What was asked for, else the paper's for the architecture, else what fits `width`.

        width: features that a given classifier takes. Raises `UsageError` for what cannot be.
        """
        n, pool = config.n_last_blocks, config.avgpool
        if n is not None and n < 1:
            raise UsageError(f"--n-last-blocks {n} is not a positive number", "the paper takes 4")
        if not model.backbone.has_attention:
            if n is not None or pool:
                raise UsageError(
                    f"{model.weights.name} has no blocks with a class token",
                    "leave out --n-last-blocks and --avgpool",
                )
            return FeatureLayer(0, False)
        if pool and (n or 1) != 1:
            raise UsageError(
                f"--avgpool goes with one block, not with --n-last-blocks {n}",
                "use --n-last-blocks 1",
            )
        dim, depth = model.backbone.dim, model.backbone.depth
        if (
            n is None
            and pool is None
            and width is not None
            and width != _paper(dim).width(dim, depth)
        ):
            fits = [FeatureLayer(1, True), *(FeatureLayer(b, False) for b in range(1, depth + 1))]
            return next((one for one in fits if one.width(dim, depth) == width), _paper(dim))
        if n is None and pool is None:
            return _paper(dim)
        if n is None:
            return FeatureLayer(1, True) if pool else FeatureLayer(4, False)
        return FeatureLayer(n, bool(pool))

    def width(self, dim: int, depth: int) -> int:
        """Width D of the features; more blocks than there are means all of them."""
        return dim * (2 if self.avgpool else max(1, min(self.blocks, depth)))

    def features(self, model: Model, x: Tensor) -> Tensor:
        """float32 (B, D) of normalised images, ready to be trained on."""
        with model.forward(x):
            if self.blocks == 0:
                features = model.backbone.features(x)
            else:
                tokens = model.backbone.last_tokens(x, self.blocks)
                features = linear_features(
                    tokens, model.backbone.prefix_tokens, avgpool=self.avgpool
                )
        model.check_finite(features)
        return features.float().clone()


def _paper(dim: int) -> FeatureLayer:
    return FeatureLayer(1, True) if dim >= WIDE else FeatureLayer(4, False)


def labelled(source: Path, reporter: Reporter) -> list[ImageFile]:
    """The pictures with a class. Raises `TaskError` when none has one."""
    files = find_images([str(source)], reporter=reporter)
    known = [file for file in files if file.label]
    if not known:
        raise TaskError(
            f"the images of {str(source)!r} have no classes",
            "put the pictures of each class into a folder of its name",
        )
    if len(known) < len(files):
        reporter.remark(f"{len(files) - len(known)} images of {source} have no class; left out")
    return known


def with_labels(
    files: Sequence[ImageFile], classes: Sequence[str], source: Path, reporter: Reporter
) -> list[ImageFile]:
    """Those of a class that the classifier knows. Raises `TaskError` when there are none."""
    known = set(classes)
    kept = [file for file in files if file.label in known]
    if not kept:
        raise TaskError(
            f"no label of {str(source)!r} is a class of the classifier",
            f"its classes are {', '.join(classes[:3])}…: name the folders so",
        )
    if len(kept) < len(files):
        reporter.remark(
            f"{len(files) - len(kept)} images of {source} are of no class of the classifier;"
            " left out"
        )
    return kept


@dataclass(frozen=True)
class FeatureSource:
    """What is needed to see images: the model, their preprocessing, the layer."""

    model: Model
    preprocessing: Preprocessing
    layer: FeatureLayer


@dataclass(frozen=True)
class FrozenFeatures:
    """features: float32 (N, D) on the model's device; files: the N that could be read."""

    features: Tensor
    files: list[ImageFile]

    def labels(self, classes: Sequence[str]) -> Tensor:
        """int64 (N,) on the same device: positions of the labels in `classes`."""
        number = {name: i for i, name in enumerate(classes)}
        numbers = [number[file.label] for file in self.files]
        return torch.tensor(numbers, device=self.features.device)


def extract_features(
    files: Sequence[ImageFile],
    seen: FeatureSource,
    config: EvalLinearConfig,
    reporter: Reporter,
    name: str,
) -> FrozenFeatures:
    """Features of all readable files, kept in memory: N · D · 4 bytes.

    Raises `TaskError` for the first unreadable one with `strict`, and when none can be read.
    """
    rows: list[Tensor] = []
    kept: list[ImageFile] = []
    skipped: list[tuple[str, str]] = []
    batches = image_batches(
        files, seen.preprocessing, batch_size=min(config.batch_size, 64), workers=config.workers
    )
    reporter.stage(name, len(files))
    for batch in batches:
        skipped += [(files[i].path.as_posix(), reason) for i, reason in batch.failures]
        if skipped and config.strict:
            raise cannot_read(*skipped[0])
        if batch.indices:
            with explain_network():
                x = normalize(batch.images, seen.preprocessing, seen.model.device)
                rows.append(seen.layer.features(seen.model, x))
            kept += [files[i] for i in batch.indices]
        reporter.advance(len(batch.indices) + len(batch.failures))
    reporter.finish()
    if not kept:
        raise nothing_read(skipped)
    tell_skipped(skipped, reporter)
    return FrozenFeatures(torch.cat(rows), kept)
