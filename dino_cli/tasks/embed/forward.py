"""Pictures through the network: features of their files, batch after batch."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from dino_cli.config.shared import ComputeOptions, Preprocessing
from dino_cli.core.network.architecture import LAST_LAYER
from dino_cli.core.network.features import GRID_KINDS, Extractor, Kind
from dino_cli.data.listing.image_list import ImageFile
from dino_cli.data.loader import Batch, image_batches
from dino_cli.data.preprocess import normalize
from dino_cli.errors import TaskError, UsageError
from dino_cli.progress import Reporter
from dino_cli.tasks.model import Model
from dino_cli.tasks.unreadable import cannot_read

__all__ = [
    "EmbedResult",
    "EmbeddedBatch",
    "embed_batches",
    "embed_files",
    "embed_pixels",
    "explain_network",
    "normalize_rows",
]


@dataclass(frozen=True)
class EmbeddedBatch:
    """One batch of B readable files. arrays: of each kind, float32 (B, D) or float16 (B, h, w, D);
    indices: their positions among all; failures: (position, reason) of the unreadable ones."""

    arrays: dict[str, NDArray[Any]]
    indices: list[int]
    failures: list[tuple[int, str]]


@dataclass(frozen=True)
class EmbedResult:
    """One batch: features, float32 (B, D), of B files; (path, reason) of the unreadable ones."""

    features: NDArray[np.float32]
    files: list[ImageFile]
    skipped: list[tuple[str, str]]


def embed_files(
    files: Sequence[ImageFile],
    model: Model,
    p: Preprocessing,
    compute: ComputeOptions,
    reporter: Reporter,
    *,
    kind: Kind = "cls",
    layer: int = LAST_LAYER,
    strict: bool = False,
    multi_scale: bool = False,
) -> Iterator[EmbedResult]:
    """Vectors of one kind of the readable files, in order; see `embed_batches`."""
    for batch in embed_batches(
        files,
        model,
        p,
        compute,
        reporter,
        kinds=(kind,),
        layer=layer,
        strict=strict,
        multi_scale=multi_scale,
    ):
        yield EmbedResult(
            batch.arrays.get(kind, np.empty((0, 0), np.float32)),
            [files[i] for i in batch.indices],
            [(files[i].path.as_posix(), reason) for i, reason in batch.failures],
        )


def embed_batches(
    files: Sequence[ImageFile],
    model: Model,
    p: Preprocessing,
    compute: ComputeOptions,
    reporter: Reporter,
    *,
    kinds: Sequence[Kind],
    layer: int,
    strict: bool,
    multi_scale: bool,
    done: int = 0,
) -> Iterator[EmbeddedBatch]:
    """Features of the readable files, in order. Memory does not grow with their number.

    done: how many more files were embedded before, for the progress. strict: raise `TaskError` for
    the first unreadable file. Also raises it for features that are not finite and for a batch that
    does not fit the device's memory, `UsageError` for features and layers that the network does
    not have.
    """
    batches = image_batches(files, p, batch_size=compute.batch_size, workers=compute.workers)
    if strict:
        batches = _refusing(batches, files)
    found = embed_pixels(
        batches, model, p, compute, kinds=kinds, layer=layer, multi_scale=multi_scale
    )
    reporter.stage("embedding", len(files) + done, done=done)
    for batch in found:
        yield batch
        reporter.advance(len(batch.indices) + len(batch.failures))
    reporter.finish()


def embed_pixels(
    batches: Iterable[Batch],
    model: Model,
    p: Preprocessing,
    compute: ComputeOptions,
    *,
    kinds: Sequence[Kind],
    layer: int,
    multi_scale: bool,
) -> Iterator[EmbeddedBatch]:
    """Features of pictures that are read and resized. Raises as `embed_batches` does."""
    block = model.block(layer)
    with explain_network():
        extract = Extractor(model.backbone, kinds, layer=block, compile=compute.compile)
    for batch in batches:
        arrays: dict[str, NDArray[Any]] = {}
        if batch.indices:
            with explain_network(), model.forward(batch.images):
                x = normalize(batch.images, p, model.device)
                found = extract(x, multi_scale=multi_scale)
            arrays = {kind: values.cpu().numpy() for kind, values in found.items()}
            for kind, values in arrays.items():
                if not np.isfinite(values).all():
                    raise _not_finite(kind, model)
        yield EmbeddedBatch(arrays, batch.indices, batch.failures)


def normalize_rows(array: NDArray[Any]) -> NDArray[Any]:
    """Every vector, along the last dimension, scaled to length 1; the type stays."""
    given = torch.from_numpy(array)
    scaled: NDArray[Any] = F.normalize(given.float(), dim=-1).to(given.dtype).numpy()
    return scaled


def _refusing(batches: Iterable[Batch], files: Sequence[ImageFile]) -> Iterator[Batch]:
    """The batches, up to the first unreadable file."""
    for batch in batches:
        if batch.failures:
            position, reason = batch.failures[0]
            raise cannot_read(files[position].path.as_posix(), reason)
        yield batch


def _not_finite(kind: str, model: Model) -> TaskError:
    if kind in GRID_KINDS and model.precision == "fp32":
        return TaskError(
            f"features {kind!r} are too large for the half precision that grids are kept in",
            "use other --features",
        )
    return TaskError(f"features in {model.precision} are not finite", "use --precision fp32")


@contextmanager
def explain_network() -> Iterator[None]:
    """Raises `UsageError` for features or a size of images that the network does not have."""
    try:
        yield
    except (ValueError, AssertionError) as error:
        why = " ".join(str(error).split())
        raise UsageError(
            f"this network cannot do that: {why}", "change --features or the image size"
        ) from None
