"""Pictures to features."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from os import PathLike
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dino_cli.config.embed import EmbedConfig
from dino_cli.config.shared import ComputeOptions, ModelOptions
from dino_cli.core.network.features import Kind
from dino_cli.data.listing.image_list import ImageFile
from dino_cli.data.listing.images import find_images
from dino_cli.errors import UsageError
from dino_cli.library.model import load_model
from dino_cli.library.pictures import Pictures, batches_of, many_of
from dino_cli.progress import Reporter
from dino_cli.tasks.embed.forward import (
    EmbeddedBatch,
    embed_batches,
    embed_pixels,
    normalize_rows,
)
from dino_cli.tasks.embed.options import parse_kinds, transform_of
from dino_cli.tasks.model import Model
from dino_cli.tasks.unreadable import nothing_read

__all__ = ["Features", "embed"]


@dataclass(frozen=True)
class Features:
    """N pictures that were read. arrays: for each kind float32 (N, D), or float16 (N, h, w, D);
    paths: of files, "" for pictures in memory; labels: class folders, "" where unknown; skipped:
    (path, reason) of unreadable files."""

    arrays: dict[str, NDArray[Any]]
    paths: list[str]
    labels: list[str]
    skipped: list[tuple[str, str]]

    @property
    def vectors(self) -> NDArray[Any]:
        """The kind that was named first."""
        return next(iter(self.arrays.values()))


def embed(
    images: Pictures | Sequence[Pictures],
    model: Model | str = ModelOptions.model,
    *,
    features: str = EmbedConfig.features,
    layer: int = EmbedConfig.layer,
    normalize: bool = False,
    multi_scale: bool = False,
    image_size: str | None = None,
    batch_size: int = ComputeOptions.batch_size,
    workers: int = 0,
    strict: bool = False,
) -> Features:
    """Features of pictures, as `dino embed` computes them, in memory.

    images: one or several, all by name or all in memory. features: cls, mean, cls+mean, last4,
    patch, keys, or several by comma. layer: number of their block, from 0, or from -1 backwards.
    workers: processes that decode files. Rows are in the order of the pictures; those of one size
    go through the network together.

    Raises `UsageError` for no pictures, names mixed with pictures, an array that is no RGB pixels,
    a picture in memory that is too small or becomes too large, features that do not exist, features
    or a layer that the network does not have, grids of several sizes, and options that cannot be.
    Raises `TaskError` for names that are not there, a file that cannot be read when `strict` or
    when none can, a model that cannot be had, features that are not finite, and too little memory.
    """
    opened = load_model(model) if isinstance(model, str) else model
    kinds = parse_kinds(features)
    config = EmbedConfig(
        image_size=image_size, batch_size=batch_size, workers=workers, features=features
    )
    p = transform_of(config, opened)
    many = many_of(images)
    files: Sequence[ImageFile] = []
    if all(isinstance(one, str | PathLike) for one in many):
        files = find_images([str(one) for one in many]).labelled()
        found = embed_batches(
            files,
            opened,
            p,
            config,
            Reporter(),
            kinds=kinds,
            layer=layer,
            strict=strict,
            multi_scale=multi_scale,
        )
    else:
        found = embed_pixels(
            batches_of(many, p, batch_size),
            opened,
            p,
            config,
            kinds=kinds,
            layer=layer,
            multi_scale=multi_scale,
        )
    return _gathered(found, files, kinds, normalize)


def _gathered(
    batches: Iterable[EmbeddedBatch], files: Sequence[ImageFile], kinds: Sequence[Kind], scale: bool
) -> Features:
    pieces: dict[str, list[NDArray[Any]]] = {kind: [] for kind in kinds}
    rows: list[int] = []
    skipped = []
    for batch in batches:
        for kind, array in batch.arrays.items():
            pieces[kind].append(normalize_rows(array) if scale else array)
        rows += batch.indices
        skipped += [(files[i].path.as_posix(), reason) for i, reason in batch.failures]
    if not rows:
        raise nothing_read(skipped)
    for parts in pieces.values():
        shapes = sorted({array.shape[1:] for array in parts})
        if len(shapes) > 1:
            raise UsageError(
                f"the pictures have grids of {' and '.join(map(str, shapes))}",
                "make them equal with image_size='480x480'",
            )
    order = np.argsort(rows)
    arrays = {kind: np.concatenate(parts)[order] for kind, parts in pieces.items()}
    paths = [files[row].path.as_posix() if files else "" for row in sorted(rows)]
    labels = [files[row].label if files else "" for row in sorted(rows)]
    return Features(arrays, paths, labels, skipped)
