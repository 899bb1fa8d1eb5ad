"""What `dino knn` classifies: the index itself, another feature file, or pictures and frames."""

import os
from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dino_cli.config.knn import KnnConfig
from dino_cli.config.setting import to_json
from dino_cli.config.shared import Preprocessing
from dino_cli.core.evaluation.neighbors import Rows
from dino_cli.data.listing.image_list import ImageFile
from dino_cli.data.listing.media import find_frames
from dino_cli.errors import TaskError, UsageError
from dino_cli.progress import Reporter
from dino_cli.store.embeddings.reading import Embeddings, is_feature_file
from dino_cli.tasks.embed.forward import EmbedResult, embed_files
from dino_cli.tasks.knn.bank import compare, open_index
from dino_cli.tasks.model import open_model
from dino_cli.tasks.provenance import (
    model_facts,
    recorded_kind,
    recorded_layer,
    recorded_preprocessing,
    with_recorded_network,
)

__all__ = ["Queries", "of_features", "open_queries"]

CHUNK = 1024  # pictures embedded before the index is searched for them


@dataclass
class Queries:
    """Queries in order. chunks: features (q, D) with their q positions in paths and labels.

    labels: as the folders below an argument, a list or a feature file say; else the folder that
    the picture lies in, where that is a class of the index. named: no label is of the last kind.
    skipped, (path, reason), grows while the chunks are consumed. own: they are the index's rows.
    """

    paths: list[str]
    labels: list[str]
    chunks: Iterator[tuple[Rows, Sequence[int]]]
    own: bool = False
    pictures: bool = False
    named: bool = True
    skipped: list[tuple[str, str]] = field(default_factory=list)


def open_queries(
    config: KnnConfig, index: Embeddings, reporter: Reporter, given: Set[str]
) -> Queries:
    """Open the queries. Raises `TaskError` when another model or preprocessing made the index."""
    if not config.queries:
        return of_features(index, own=True)
    files = [Path(name) for name in config.queries if is_feature_file(name)]
    if not files:
        return _of_pictures(config, index, reporter, given)
    if len(config.queries) > 1:
        raise UsageError(
            f"{str(files[0])!r} is a feature file beside other queries", "give it alone"
        )
    query = open_index(files[0])
    compare(index, query.metadata, repr(str(files[0])))
    return of_features(query)


def of_features(source: Embeddings, *, own: bool = False) -> Queries:
    """All rows of a feature file. own: they are those of the index."""
    everything = (source.features, range(len(source.paths)))
    return Queries(source.paths, source.labels, iter([everything]), own)


def _of_pictures(
    config: KnnConfig, index: Embeddings, reporter: Reporter, given: Set[str]
) -> Queries:
    files, _ = find_frames(
        config.queries, config.fps, reporter, null=config.null, offline=config.offline
    )
    options = with_recorded_network(config, index.metadata, given, "the index")
    p = _preprocessing(index)
    if "exif" in given:
        p = replace(p, exif=config.exif)
    model = open_model(options, reporter)
    made = {
        **index.metadata,
        **model.identity,
        **model_facts(options),
        "preprocessing": to_json(p),
    }
    compare(index, made, "the model for the queries")
    kind = recorded_kind(index.metadata)
    if kind is None:
        raise TaskError(
            f"the .json beside {str(index.path)!r} tells of features"
            f" {index.metadata.get('features')!r}, which are no vectors",
            "make the index again with `dino embed`",
        )
    batches = embed_files(
        files,
        model,
        p,
        options,
        reporter,
        kind=kind,
        layer=recorded_layer(index.metadata),
        strict=config.strict,
        multi_scale=bool(index.metadata.get("multi_scale", False)),
    )
    skipped: list[tuple[str, str]] = []
    classes = {label for label in index.labels if label}
    labels = [file.label or _parent_class(file.path, classes) for file in files]
    return Queries(
        [file.path.as_posix() for file in files],
        labels,
        _chunks(files, batches, skipped),
        pictures=True,
        named=all(file.label for file, label in zip(files, labels, strict=True) if label),
        skipped=skipped,
    )


def _chunks(
    files: Sequence[ImageFile], batches: Iterator[EmbedResult], skipped: list[tuple[str, str]]
) -> Iterator[tuple[Rows, Sequence[int]]]:
    """Batches together until there are enough features to search with. skipped: grows."""
    position = {file: i for i, file in enumerate(files)}
    features: list[NDArray[np.float32]] = []
    which: list[int] = []
    for batch in batches:
        skipped.extend(batch.skipped)
        if batch.files:
            features.append(batch.features)
            which += [position[file] for file in batch.files]
        if len(which) >= CHUNK:
            yield np.concatenate(features), which
            features, which = [], []
    if which:
        yield np.concatenate(features), which


def _parent_class(path: Path, classes: Set[str]) -> str:
    """The folder that a picture lies in, where that is the name of a class, else ""."""
    name = os.path.basename(os.path.dirname(os.path.abspath(path)))
    return name if name in classes else ""


def _preprocessing(index: Embeddings) -> Preprocessing:
    p = recorded_preprocessing(index.metadata)
    if p is None:
        raise TaskError(
            f"the .json beside {str(index.path)!r} does not tell the preprocessing",
            "make the index again with `dino embed`",
        )
    return p
