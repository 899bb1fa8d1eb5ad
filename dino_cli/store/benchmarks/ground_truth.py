"""Ground truth of the landmark retrieval benchmarks: which images show what a query shows."""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dino_cli.config.values import shown
from dino_cli.errors import TaskError
from dino_cli.store.benchmarks.plain_pickle import read_plain_pickle

__all__ = ["GroundTruth", "Relevance", "find_ground_truth", "image_paths", "read_ground_truth"]

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")
LISTS = ("easy", "hard", "junk")


@dataclass(frozen=True)
class Relevance:
    """Of one query: positions in the database's list of the images that show the same."""

    easy: list[int]
    hard: list[int]
    junk: list[int]


@dataclass(frozen=True)
class GroundTruth:
    """images, queries: names, usually without suffix; truth: for each query."""

    path: Path
    images: list[str]
    queries: list[str]
    truth: list[Relevance]


def find_ground_truth(root: Path) -> Path | None:
    """ROOT/gnd_*.json or .pkl, of equal names the .json; None when there is none.

    Raises `TaskError` for several.
    """
    found = {p.stem: p for suffix in ("pkl", "json") for p in root.glob(f"gnd_*.{suffix}")}
    if len(found) > 1:
        names = " and ".join(sorted(path.name for path in found.values())[:2])
        raise TaskError(f"{str(root)!r} holds several ground truths, {names}", "keep one of them")
    return next(iter(found.values()), None)


def read_ground_truth(path: Path) -> GroundTruth:
    """`imlist`, `qimlist` and `gnd` as published by Radenović et al. (2018), pickle or JSON.

    Nothing in a pickle is executed. Raises `TaskError` for what is no such ground truth.
    """
    if path.suffix == ".json":
        try:
            content = json.loads(path.read_text(encoding="utf-8-sig"))
        except (OSError, ValueError, RecursionError) as error:
            raise TaskError(f"cannot read {str(path)!r}: {error}", "repair it") from None
    else:
        content = read_plain_pickle(path)
    try:
        images, queries = (_names(content[key], key) for key in ("imlist", "qimlist"))
        truth = [
            Relevance(*(_numbers(one.get(name, []), name, len(images)) for name in LISTS))
            for one in content["gnd"]
        ]
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        what = f"{error} is missing" if isinstance(error, KeyError) else str(error)
        raise TaskError(
            f"{str(path)!r} is no ground truth of a landmark benchmark: {what}",
            "it needs imlist, qimlist and gnd, with easy, hard and junk for each query",
        ) from None
    if len(truth) != len(queries):
        raise TaskError(
            f"{str(path)!r} has {len(queries)} queries, but ground truth for {len(truth)}",
            "repair it",
        )
    return GroundTruth(path, images, queries, truth)


def image_paths(folder: Path, names: Sequence[str]) -> list[Path]:
    """The files of the names, which may lack their suffix. Raises `TaskError` for a missing one."""
    return [_image(folder, name) for name in names]


def _image(folder: Path, name: str) -> Path:
    for suffix in (*SUFFIXES, ""):  # names may contain a dot, so the suffix is tried first
        path = folder / f"{name}{suffix}"
        if os.path.isfile(path):  # whatever the name: one that no file can have is missing
            return path
    raise TaskError(
        f"the image {shown(name)} of the ground truth is not in {str(folder)!r}",
        "unpack the whole data set",
    )


def _names(value: Any, key: str) -> list[str]:
    if not isinstance(value, list) or not value or not all(isinstance(v, str) for v in value):
        raise ValueError(f"{key} is no list of names")
    return value


def _numbers(value: Any, key: str, count: int) -> list[int]:
    if not isinstance(value, list):
        raise ValueError(f"{key} is no list")
    for number in value:
        whole = isinstance(number, int) and not isinstance(number, bool)
        if not whole or not 0 <= number < count:
            raise ValueError(f"{key} names {shown(number)}, which is none of {count} images")
    return [int(number) for number in value]
