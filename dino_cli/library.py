"""`import dino_cli`: the work of the commands on Python's own values.

Errors are `dino_cli.errors.TaskError` and `UsageError`, one sentence each.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from os import PathLike
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from dino_cli.config.attention import AttentionConfig
from dino_cli.config.embed import EmbedConfig
from dino_cli.config.knn import KnnConfig
from dino_cli.config.shared import ComputeOptions, ModelOptions, Preprocessing
from dino_cli.core.features import Kind
from dino_cli.core.refine import cut, guided_mask
from dino_cli.data.decode import UnreadableImage, read_image
from dino_cli.data.images import ImageFile, find_images
from dino_cli.data.loader import Batch
from dino_cli.data.preprocess import build_transform
from dino_cli.errors import TaskError, UsageError
from dino_cli.progress import Reporter
from dino_cli.store.embeddings.reading import Embeddings
from dino_cli.tasks.attention.photos import photo_of
from dino_cli.tasks.attention.plan import Plan, plan, read_options
from dino_cli.tasks.attention.stills import look_at
from dino_cli.tasks.embed.forward import (
    EmbeddedBatch,
    embed_batches,
    embed_pixels,
    nothing_read,
    unit,
)
from dino_cli.tasks.embed.options import parse_kinds, transform_of
from dino_cli.tasks.knn.bank import bank_of, compare, open_index, unlabelled
from dino_cli.tasks.knn.queries import of_features
from dino_cli.tasks.knn.search import predict, search
from dino_cli.tasks.model import Model, open_model

__all__ = [
    "Features",
    "Masks",
    "Model",
    "Neighbors",
    "attention_masks",
    "embed",
    "knn",
    "load_model",
]

Pictures = str | PathLike[str] | Image.Image | NDArray[np.uint8]
"""A file, a folder, a .txt list, a PIL image, or RGB pixels, uint8 (H, W, 3)."""


def load_model(
    name: str = ModelOptions.model,
    *,
    weights: str | PathLike[str] | None = None,
    device: str = ComputeOptions.device,
    precision: Literal["auto", "fp32", "bf16", "fp16"] = ComputeOptions.precision,
    arch: str | None = None,
    patch_size: int | None = None,
    heads: int | None = None,
    checkpoint_key: Literal["teacher", "student"] = ModelOptions.checkpoint_key,
    offline: bool = False,
) -> Model:
    """A network, as the commands open it: a name of theirs, a hub id, timm's name, or `weights`.

    The result has `backbone`, `preprocessing`, `device` and `identity`; `embed` and
    `attention_masks` take it.
    """
    options = _ModelAndCompute(
        model=name,
        weights=Path(weights) if weights is not None else None,
        device=device,
        precision=precision,
        arch=arch,
        patch_size=patch_size,
        heads=heads,
        checkpoint_key=checkpoint_key,
        offline=offline,
    )
    return open_model(options, Reporter())


@dataclass(frozen=True, kw_only=True)
class _ModelAndCompute(ModelOptions, ComputeOptions):
    """What `open_model` reads."""


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
    normalize: bool = False,
    multi_scale: bool = False,
    image_size: str | None = None,
    batch_size: int = ComputeOptions.batch_size,
    workers: int = 0,
    strict: bool = False,
) -> Features:
    """Features of pictures, as `dino embed` computes them, in memory.

    images: one or several, all by name or all in memory. features: cls, mean, cls+mean, last4,
    patch, keys, or several by comma. workers: processes that decode files.
    """
    opened = load_model(model) if isinstance(model, str) else model
    kinds = parse_kinds(features)
    config = EmbedConfig(
        image_size=image_size, batch_size=batch_size, workers=workers, features=features
    )
    p = transform_of(config, opened)
    many = _many(images)
    files: Sequence[ImageFile] = []
    if all(isinstance(one, str | PathLike) for one in many):
        files = find_images([str(one) for one in many])
        found = embed_batches(
            files,
            opened,
            p,
            config,
            Reporter(),
            kinds=kinds,
            strict=strict,
            multi_scale=multi_scale,
        )
    else:
        found = embed_pixels(
            _in_memory(many, p, batch_size), opened, p, config, kinds=kinds, multi_scale=multi_scale
        )
    return _gathered(found, files, kinds, normalize)


def _gathered(
    batches: Iterable[EmbeddedBatch], files: Sequence[ImageFile], kinds: Sequence[Kind], scale: bool
) -> Features:
    pieces: dict[str, list[NDArray[Any]]] = {kind: [] for kind in kinds}
    paths, labels, skipped = [], [], []
    for batch in batches:
        for kind, array in batch.arrays.items():
            pieces[kind].append(unit(array) if scale else array)
        for i in batch.indices:
            paths.append(files[i].path.as_posix() if files else "")
            labels.append(files[i].label if files else "")
        skipped += [(files[i].path.as_posix(), reason) for i, reason in batch.failures]
    if not paths:
        raise nothing_read(skipped) if skipped else UsageError("no pictures given", "give some")
    shapes = {array.shape[1:] for array in pieces[kinds[0]]}
    if len(shapes) > 1:
        raise UsageError(
            f"the pictures have grids of {' and '.join(map(str, sorted(shapes)))}",
            "make them equal with image_size='480x480'",
        )
    arrays = {kind: np.concatenate(parts) for kind, parts in pieces.items()}
    return Features(arrays, paths, labels, skipped)


def _many(images: Pictures | Sequence[Pictures]) -> list[Pictures]:
    if isinstance(images, str | PathLike | Image.Image):
        return [images]
    if isinstance(images, np.ndarray):
        return [images] if images.ndim == 3 else list(images)
    many = list(images)
    named = sum(isinstance(one, str | PathLike) for one in many)
    if named not in (0, len(many)):
        raise UsageError("files and pictures in memory are mixed", "give one kind at a time")
    return many


def _rgb(picture: Pictures) -> Image.Image:
    if isinstance(picture, Image.Image):
        return picture.convert("RGB")
    pixels = np.asarray(picture)
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3:
        raise UsageError(
            f"a picture is {pixels.dtype} {pixels.shape}", "give RGB pixels, uint8 (H, W, 3)"
        )
    return Image.fromarray(pixels)


def _in_memory(pictures: Sequence[Pictures], p: Preprocessing, batch_size: int) -> Iterator[Batch]:
    transform = build_transform(p)
    for start in range(0, len(pictures), batch_size):
        ready = [transform(_rgb(one)) for one in pictures[start : start + batch_size]]
        numbered = enumerate(ready, start)
        for _, group in groupby(numbered, key=lambda pair: pair[1].shape):
            indices, pixels = zip(*group, strict=True)
            stacked = np.ascontiguousarray(np.stack(pixels).transpose(0, 3, 1, 2))
            yield Batch(torch.from_numpy(stacked), list(indices))


@dataclass(frozen=True)
class Masks:
    """What was found in one picture of H × W pixels, cut into h × w patches.

    mask: bool (H, W); attention: float32 (heads, h, w), of the class token, softmax over all
    tokens; best_head: chosen without truth; score: 0 to 1, how far the mask is to be trusted; path:
    of its file, "" in memory.
    """

    mask: NDArray[np.bool_]
    attention: NDArray[np.float32]
    best_head: int
    score: float
    path: str = ""


def attention_masks(
    images: Pictures | Sequence[Pictures],
    model: Model | str = ModelOptions.model,
    *,
    masks: Literal["attention", "seeded", "tokens", "cut"] = "seeded",
    head: int | Literal["best", "mean"] = "best",
    refine: Literal["none", "guided"] = "guided",
    threshold: float = AttentionConfig.threshold,
    image_size: str | None = None,
) -> list[Masks]:
    """One mask of the salient object for each picture, as `dino attention` makes them.

    masks: see there; `head` is for `attention`. Raises `TaskError` for a file that is no picture.
    """
    opened = load_model(model) if isinstance(model, str) else model
    config = AttentionConfig(
        images=("given",),
        head=str(head),
        masks=masks,
        refine=refine,
        threshold=threshold,
        image_size=image_size,
    )
    asked = plan(config, read_options(config), Reporter(), opened)
    many = _many(images)
    if all(isinstance(one, str | PathLike) for one in many):
        many = [file.path for file in find_images([str(one) for one in many])]
    return [_look(one, asked) for one in many]


def _look(picture: Pictures, asked: Plan) -> Masks:
    path = str(picture) if isinstance(picture, str | PathLike) else ""
    try:
        image = read_image(Path(path)) if path else _rgb(picture)
        photo = photo_of(0, image, asked.preprocessing, asked.patch, None)
    except (UnreadableImage, ValueError) as error:
        raise TaskError(f"cannot use {path or 'a picture'!r}: {error}", "give another") from None
    seen = look_at(asked, [photo])[0]
    if seen.whole is not None:
        mask, score = seen.whole.numpy(), seen.score
    else:
        chosen = asked.asked.chosen[0]
        index = {"best": seen.best, "mean": len(seen.attention)}.get(str(chosen), chosen)
        mask, score = seen.masks[int(index)].numpy(), seen.overlaps[int(index)]
    whole = np.asarray(photo.layout.enlarge(mask), np.bool_)
    if asked.config.refine == "guided":
        rows, columns = photo.layout.at((photo.view.shape[0], photo.view.shape[1])).covered
        soft = guided_mask(mask, np.ascontiguousarray(photo.view[:rows, :columns]))
        fitted = cut(soft, photo.layout.covered)
        whole = np.zeros(photo.layout.photo, np.bool_)
        whole[: fitted.shape[0], : fitted.shape[1]] = fitted
    return Masks(whole, seen.attention.numpy(), seen.best, score, path)


@dataclass(frozen=True)
class Neighbors:
    """For Q queries: predicted classes ("" below `min_similarity`) and their shares of the votes
    (Q,); the k nearest rows of the index, int64 (Q, k), and their cosines, float32 (Q, k), nearest
    first. classes: of the index; without any, nothing is predicted."""

    predicted: list[str]
    probabilities: NDArray[np.float32]
    rows: NDArray[np.int64]
    similarities: NDArray[np.float32]
    classes: list[str]


def knn(
    index: str | PathLike[str] | Features | NDArray[Any],
    queries: str | PathLike[str] | Features | NDArray[Any] | None = None,
    *,
    labels: Sequence[str] | None = None,
    k: int = 20,
    temperature: float = KnnConfig.temperature,
    min_similarity: float | None = None,
) -> Neighbors:
    """Weighted k-NN, as `dino knn`: features by file name, from `embed`, or as an array (N, D).

    labels: of the index's rows, "" where unknown; they replace those in a file. Without queries
    every row of the index is compared with all others.
    """
    bank_rows = _rows(index, labels)
    known = any(bank_rows.labels)
    bank = bank_of(bank_rows, Reporter()) if known else unlabelled(bank_rows)
    source = _rows(queries, None) if queries is not None else bank_rows
    if isinstance(index, str | PathLike) and isinstance(queries, str | PathLike):
        compare(bank_rows, source.metadata, repr(str(queries)))
    most = int(bank.voting.sum()) - (queries is None)
    if not k > 0 or most < 1:
        raise UsageError(f"k={k} of {most} rows", "use k=20 and an index of two rows or more")
    asked = of_features(source, own=queries is None)
    config = KnnConfig(device="cpu")
    rows, similarities, predicted, shares = [], [], [], []
    for found in search(asked, bank, min(k, most), config, Reporter()):
        rows.append(found.rows.numpy())
        similarities.append(found.similarities.numpy())
        if known:
            for row in predict(found, bank, min(k, most), 0, temperature, min_similarity):
                predicted.append(str(row[1]))
                shares.append(float(str(row[2])) if row[1] else 0.0)
        else:
            predicted += [""] * len(found.paths)
            shares += [0.0] * len(found.paths)
    return Neighbors(
        predicted,
        np.array(shares, np.float32),
        np.concatenate(rows),
        np.concatenate(similarities),
        bank.classes,
    )


def _rows(
    source: str | PathLike[str] | Features | NDArray[Any], labels: Sequence[str] | None
) -> Embeddings:
    if isinstance(source, str | PathLike):
        export = open_index(Path(source))
    elif isinstance(source, Features):
        export = Embeddings(Path("memory"), source.vectors, source.paths, source.labels, {})
    else:
        vectors = np.asarray(source, np.float32)
        empty = [""] * len(vectors)
        export = Embeddings(Path("memory"), vectors, empty, empty, {})
    if len(export.features.shape) != 2:
        raise UsageError(f"features of shape {export.features.shape}", "give vectors, (N, D)")
    if labels is None:
        return export
    if len(labels) != len(export.paths):
        raise UsageError(f"{len(labels)} labels for {len(export.paths)} rows", "give one for each")
    return replace(export, labels=[str(label) for label in labels])
