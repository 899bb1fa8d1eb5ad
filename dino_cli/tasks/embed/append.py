"""What an export does not hold yet, by path and by content."""

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from dino_cli.config.embed import EmbedConfig
from dino_cli.config.setting import json_ready
from dino_cli.config.values import differing
from dino_cli.data.listing.contents import content_sha256
from dino_cli.data.listing.images import ImageFile
from dino_cli.errors import TaskError
from dino_cli.progress import Reporter
from dino_cli.runtime import usable_threads
from dino_cli.store.embeddings.reading import Embeddings, open_export
from dino_cli.store.embeddings.sources import read_sources
from dino_cli.tasks.embed.merge import EarlierExport

__all__ = ["changed_file", "find_new"]


def find_new(
    config: EmbedConfig,
    files: Sequence[ImageFile],
    facts: Mapping[str, Any],
    kinds: Sequence[str],
    reporter: Reporter,
    *,
    contents: bool = True,
) -> tuple[EarlierExport, list[ImageFile]]:
    """The export at `config.output`, and the files to embed.

    A file is known by its path while its content is what was embedded; a changed one is embedded
    again and its old row goes. A file under a new path is new unless a row has its content already.
    contents: False looks at paths alone. Raises `TaskError` when the export was made in another
    way.
    """
    export = open_export(config.output)
    _compare(export, {**facts, "thumbnails": config.thumbnails}, kinds)
    digests, _ = read_sources(config.output, len(export.paths))
    places = {os.path.abspath(path): i for i, path in enumerate(export.paths)}
    keep = np.ones(len(export.paths), dtype=np.bool_)
    if not contents:
        new = [file for file in files if os.path.abspath(file.path) not in places]
        return EarlierExport(export, digests, keep), new
    known, new, copies = set(digests), [], 0
    with ThreadPoolExecutor(usable_threads(config.workers)) as pool:
        found = pool.map(_digest, files)
        for file, digest in zip(reporter.track(files, "comparing", len(files)), found, strict=True):
            place = places.get(os.path.abspath(file.path))
            if place is not None:
                if digests[place] != digest:
                    keep[place] = False
                    new.append(file)
            elif digest in known:
                copies += 1
            else:
                new.append(file)
    if copies:
        are = "1 picture is" if copies == 1 else f"{copies} pictures are"
        reporter.remark(f"{are} there already under another name, and left out")
    changed = int((~keep).sum())
    if changed:
        have = "1 picture has" if changed == 1 else f"{changed} pictures have"
        reporter.remark(f"{have} changed since, and are embedded again at the end")
    return EarlierExport(export, digests, keep), new


def changed_file(
    config: EmbedConfig, files: Sequence[ImageFile], base: EarlierExport, reporter: Reporter
) -> ImageFile | None:
    """The first file whose content is not what the export's row was made of; None for none."""
    known = {os.path.abspath(p): d for p, d in zip(base.export.paths, base.digests, strict=True)}
    rows = [file for file in files if os.path.abspath(file.path) in known]
    with ThreadPoolExecutor(usable_threads(config.workers)) as pool:
        found = pool.map(_digest, rows)
        for file, digest in zip(reporter.track(rows, "comparing", len(rows)), found, strict=True):
            if known[os.path.abspath(file.path)] != digest:
                pool.shutdown(cancel_futures=True)
                return file
    return None


def _digest(file: ImageFile) -> str:
    try:
        return content_sha256(file.path)
    except OSError:
        return "unreadable"  # is tried, and reported


def _compare(export: Embeddings, facts: Mapping[str, Any], kinds: Sequence[str]) -> None:
    made = {**export.metadata, "kinds": list(export.arrays)}
    made.setdefault("thumbnails", False)
    wanted = {**facts, "kinds": list(kinds)}
    for key in (
        "weights_sha256", "checkpoint_key", "arch", "patch_size", "heads", "precision", "kinds",
        "preprocessing", "normalize", "multi_scale", "thumbnails",
    ):  # fmt: skip
        old, new = made.get(key), json_ready(wanted.get(key))
        if old == new:
            continue
        if key == "weights_sha256":
            old, new = f"{made.get('model')} ({str(old)[:8]})", f"{wanted['model']} ({new[:8]})"
        elif isinstance(old, dict) and isinstance(new, dict):
            key = differing(old, new)
            old, new = old.get(key), new.get(key)
        raise TaskError(
            f"{str(export.path)!r} was made with {key} {old}, not {new}",
            "give the same options as then, or embed anew with --overwrite",
        )
