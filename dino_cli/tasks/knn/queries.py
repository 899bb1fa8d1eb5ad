"""What `dino knn` classifies: the index itself, another feature file, or pictures."""

from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dino_cli.config.knn import KnnConfig
from dino_cli.config.shared import Preprocessing
from dino_cli.core.neighbors import Rows
from dino_cli.data.images import find_images
from dino_cli.errors import TaskError, UsageError
from dino_cli.progress import Reporter
from dino_cli.store.embeddings import Embeddings, read_embeddings
from dino_cli.tasks.embed import embed_files, model_facts
from dino_cli.tasks.model import open_model

__all__ = ["Queries", "open_queries"]

CHUNK = 1024  # pictures embedded before the index is searched for them
# What two feature files, or an index and a model, must agree in, by the names in the .json.
NETWORK = ("weights_sha256", "checkpoint_key", "arch", "patch_size", "heads")
SAME = (*NETWORK, "features", "preprocessing", "dim")


@dataclass
class Queries:
    """Queries in order. chunks: features (q, D) with their q positions in paths and labels.

    skipped, (path, reason), grows while the chunks are consumed. own: they are the index's rows.
    """

    paths: list[str]
    labels: list[str]
    chunks: Iterator[tuple[Rows, Sequence[int]]]
    own: bool = False
    pictures: bool = False
    skipped: list[tuple[str, str]] = field(default_factory=list)


def open_queries(
    config: KnnConfig, index: Embeddings, reporter: Reporter, given: Set[str]
) -> Queries:
    """Open the queries. Raises `TaskError` when another model or preprocessing made the index."""
    if not config.queries:
        return _of_features(index, own=True)
    files = [Path(name) for name in config.queries if Path(name).suffix == ".npy"]
    if not files:
        return _of_pictures(config, index, reporter, given)
    if len(config.queries) > 1:
        raise UsageError(
            f"{str(files[0])!r} is a feature file beside other queries", "give it alone"
        )
    query = read_embeddings(files[0])
    _compare(index, query.metadata, repr(str(files[0])))
    return _of_features(query)


def _of_features(source: Embeddings, *, own: bool = False) -> Queries:
    everything = (source.features, range(len(source.paths)))
    return Queries(source.paths, source.labels, iter([everything]), own)


def _of_pictures(
    config: KnnConfig, index: Embeddings, reporter: Reporter, given: Set[str]
) -> Queries:
    files = find_images(config.queries, reporter=reporter)
    options = _as_the_index(config, index.metadata, given)
    p = _preprocessing(index)
    if "exif" in given:
        p = replace(p, exif=config.exif)
    model = open_model(options, reporter)
    made = {
        **index.metadata,
        **model.identity,
        **model_facts(options),
        "preprocessing": _plain(asdict(p)),
    }
    _compare(index, made, "the model for the queries")
    kind = index.metadata.get("features", "cls")
    skipped: list[tuple[str, str]] = []

    def chunks() -> Iterator[tuple[Rows, Sequence[int]]]:
        position = {id(file): i for i, file in enumerate(files)}
        features: list[NDArray[np.float32]] = []
        which: list[int] = []
        for batch in embed_files(
            files, model, p, options, reporter, kind=kind, strict=config.strict
        ):
            skipped.extend(batch.skipped)
            if batch.files:
                features.append(batch.features)
                which += [position[id(file)] for file in batch.files]
            if len(which) >= CHUNK:
                yield np.concatenate(features), which
                features, which = [], []
        if which:
            yield np.concatenate(features), which

    return Queries(
        [file.path.as_posix() for file in files],
        [file.label for file in files],
        chunks(),
        pictures=True,
        skipped=skipped,
    )


def _as_the_index(config: KnnConfig, metadata: Mapping[str, Any], given: Set[str]) -> KnnConfig:
    """The config with the index's network, except for what the person typed.

    The index names a local file by its absolute path, everything else by the model's name.
    """
    if given & {"model", "weights"}:
        return config
    weights = Path(metadata.get("weights", ""))
    if weights.is_absolute() and not weights.exists():
        raise TaskError(
            f"the weights that made the index, {str(weights)!r}, are not there any more",
            "name them with --weights PATH",
        )
    made: dict[str, Any] = {
        "model": metadata.get("model", config.model),
        "weights": weights if weights.is_absolute() else None,
    }
    made |= {key: metadata[key] for key in NETWORK if key in metadata and hasattr(config, key)}
    return replace(config, **{key: value for key, value in made.items() if key not in given})


def _compare(index: Embeddings, query: Mapping[str, Any], name: str) -> None:
    made = index.metadata
    for key in SAME:
        ours, theirs = made.get(key), query.get(key)
        if ours == theirs:
            continue
        if key == "weights_sha256":
            ours = f"{made.get('model')} (weights {str(ours)[:8]})"
            theirs = f"{query.get('model')} (weights {str(theirs)[:8]})"
        elif isinstance(ours, dict) and isinstance(theirs, dict):
            key = next(k for k in {**ours, **theirs} if ours.get(k) != theirs.get(k))
            ours, theirs = f"{key} {ours.get(key)}", f"{key} {theirs.get(key)}"
        else:
            ours, theirs = f"{key} {ours}", f"{key} {theirs}"
        raise TaskError(
            f"the index {str(index.path)!r} was made with {ours}, but {name} with {theirs}",
            "embed both with the same model and preprocessing",
        )


def _preprocessing(index: Embeddings) -> Preprocessing:
    try:
        values: Mapping[str, Any] = index.metadata["preprocessing"]
        arguments: dict[str, Any] = {
            key: tuple(v) if isinstance(v, list) else v for key, v in values.items()
        }
        return Preprocessing(**arguments)
    except (KeyError, TypeError, AttributeError):
        raise TaskError(
            f"the .json beside {str(index.path)!r} does not tell the preprocessing",
            "make the index again with `dino embed`",
        ) from None


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """As JSON gives it back."""
    return {key: list(v) if isinstance(v, tuple) else v for key, v in values.items()}
