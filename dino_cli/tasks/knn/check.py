"""What `dino knn` was asked for, checked before any file is read."""

import math
from pathlib import Path

from dino_cli.config.knn import KnnConfig
from dino_cli.errors import UsageError
from dino_cli.store.embeddings.reading import is_feature_file, table_beside
from dino_cli.store.writing.tables import skipped_path
from dino_cli.store.writing.targets import check_files

__all__ = ["check", "check_votes"]


def check(config: KnnConfig) -> None:
    """Raises `UsageError` for impossible numbers, `TaskError` for an output that cannot be."""
    check_votes(config)
    if config.neighbors < 0:
        raise UsageError(f"--neighbors {config.neighbors} is negative", "use --neighbors 5")
    _check_confusion(config)
    _check_output(config)


def check_votes(config: KnnConfig) -> None:
    """Raises `UsageError` for numbers that no vote can have."""
    for k in config.k:
        if k < 1:
            raise UsageError(f"k={k} is not a positive number", "use -k 20")
    if not config.temperature > 0 or not math.isfinite(config.temperature):
        raise UsageError(
            f"temperature {config.temperature} is not a positive number", "use --temperature 0.07"
        )
    if config.min_similarity is not None and not -1 <= config.min_similarity <= 1:
        raise UsageError(
            f"--min-similarity {config.min_similarity:g} is not a cosine",
            "use --min-similarity 0.5",
        )


def _check_confusion(config: KnnConfig) -> None:
    if config.duplicates is not None and (config.confusion or config.per_class):
        asked = "--confusion" if config.confusion else "--per-class"
        raise UsageError(
            f"{asked} does not go with --duplicates, which classifies nothing", "leave one out"
        )
    if config.confusion is None:
        return
    if config.confusion.suffix != ".png":
        raise UsageError(
            f"the confusion matrix is a .png, which {str(config.confusion)!r} is not",
            "use --confusion confusion.png",
        )
    check_files([config.confusion], overwrite=config.overwrite)


def _check_output(config: KnnConfig) -> None:
    output = config.output
    if output is None:
        return
    if output.suffix not in (".csv", ".html"):
        raise UsageError(
            f"predictions are .csv or .html, which {str(output)!r} is not",
            "use --output predictions.csv",
        )
    if config.duplicates is not None and output.suffix != ".csv":
        raise UsageError(
            f"duplicates are listed as .csv, which {str(output)!r} is not",
            "use --output duplicates.csv",
        )
    check_files([output, skipped_path(output)], overwrite=config.overwrite)
    queries = [Path(name) for name in config.queries if is_feature_file(name)]
    for path in (*config.index, *queries):
        if output.resolve() in (table_beside(path).resolve(), path.resolve()):
            whose = "queries" if path in queries else "index"
            raise UsageError(f"{str(output)!r} belongs to the {whose}", "name another file")
