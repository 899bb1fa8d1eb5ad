"""What an export does not hold yet, by path and by content, and what it holds otherwise."""

import os
from collections import defaultdict
from collections.abc import Mapping, Sequence, Set
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dino_cli.config.embed import EmbedConfig
from dino_cli.config.setting import json_ready
from dino_cli.config.values import counted
from dino_cli.data.listing.contents import content_sha256, path_on_disk
from dino_cli.data.listing.image_list import ImageFile
from dino_cli.errors import TaskError
from dino_cli.progress import Reporter
from dino_cli.runtime import usable_threads
from dino_cli.store.embeddings.facts import made_differently
from dino_cli.store.embeddings.reading import Embeddings, open_export
from dino_cli.store.embeddings.sources import read_sources
from dino_cli.tasks.embed.merge import EarlierExport
from dino_cli.tasks.embed.share import row_path
from dino_cli.tasks.provenance import NETWORK

__all__ = ["Comparison", "compare_files"]

# What old and new rows must agree in, by the names in the .json.
SAME = (
    *NETWORK, "precision", "kinds", "layer", "preprocessing", "normalize", "multi_scale",
    "thumbnails",
)  # fmt: skip


@dataclass(frozen=True)
class Comparison:
    """An export beside the files of today. base: the export, its paths and labels as they are now;
    new: files to embed; changed: those of them whose old rows go; moved: old path, old label and
    file of rows that have another path or label now; copies: how many files are there already under
    another path; absent: how many rows are of none of the files."""

    base: EarlierExport
    new: list[ImageFile]
    changed: list[ImageFile]
    moved: list[tuple[str, str, ImageFile]]
    copies: int
    absent: int

    def tell(self, reporter: Reporter) -> None:
        """Remarks on what `--append` does beyond embedding new files."""
        if self.copies:
            are = counted(self.copies, "picture is", "pictures are")
            reporter.remark(f"{are} there already under another name, and left out")
        if self.changed:
            have = counted(len(self.changed), "picture has", "pictures have")
            reporter.remark(f"{have} changed since, and are embedded again at the end")
        if self.moved:
            have = counted(len(self.moved), "picture has", "pictures have")
            reporter.remark(f"{have} another path or class now, which the old rows take over")


def compare_files(
    config: EmbedConfig,
    files: Sequence[ImageFile],
    facts: Mapping[str, Any],
    reporter: Reporter,
) -> Comparison:
    """Compare the export at `config.output` with the files, by path and by content.

    A file is known by its path while its content is what was embedded; a changed one is embedded
    again and its old row goes. A file under a new path is new unless a row has its content already:
    that row is its own where nothing is left under the old path. Raises `TaskError` when the export
    was made in another way.
    """
    export = open_export(config.output)
    _check_made_alike(export, {**facts, "thumbnails": config.thumbnails})
    digests, _ = read_sources(config.output, len(export.paths))
    places = {os.path.abspath(path): i for i, path in enumerate(export.paths)}
    keep, seen = np.ones(len(digests), np.bool_), np.zeros(len(digests), np.bool_)
    known, new, changed = set(digests), list[ImageFile](), list[ImageFile]()
    elsewhere, rows = list[tuple[ImageFile, str]](), dict[int, ImageFile]()
    with ThreadPoolExecutor(usable_threads(config.workers)) as pool:
        found = pool.map(_digest, files)
        for file, digest in zip(reporter.track(files, "comparing", len(files)), found, strict=True):
            place = places.get(os.path.abspath(file.path))
            if place is None and digest in known:
                elsewhere.append((file, digest))
            elif place is None:
                new.append(file)
            else:
                seen[place] = True
                if digests[place] != digest:
                    keep[place] = False
                    changed.append(file)
                    new.append(file)
                elif file.label not in ("", export.labels[place]):
                    rows[place] = file
    free = _free_rows(export, digests, keep, {digest for _, digest in elsewhere})
    copies = 0
    for file, digest in elsewhere:
        if free[digest]:
            row = free[digest].pop(0)
            keep[row] = seen[row] = True
            rows[row] = file
        else:
            copies += 1
    paths, labels = list(export.paths), list(export.labels)
    for row, file in rows.items():
        paths[row], labels[row] = row_path(file.path, config), file.label
    moved = [(export.paths[row], export.labels[row], file) for row, file in rows.items()]
    base = EarlierExport(replace(export, paths=paths, labels=labels), digests, keep)
    return Comparison(base, new, changed, moved, copies, int((~seen).sum()))


def _free_rows(
    export: Embeddings, digests: Sequence[str], keep: NDArray[np.bool_], wanted: Set[str]
) -> dict[str, list[int]]:
    """Rows whose path holds their picture no more, by its content, of the contents `wanted`."""
    free: dict[str, list[int]] = defaultdict(list)
    for row, digest in enumerate(digests):
        if digest in wanted:
            there = keep[row] and os.path.exists(path_on_disk(Path(export.paths[row])))
            if not there:
                free[digest].append(row)
    return free


def _digest(file: ImageFile) -> str:
    try:
        return content_sha256(file.path)
    except OSError:
        return "unreadable"  # is tried, and reported


def _check_made_alike(export: Embeddings, facts: Mapping[str, Any]) -> None:
    made = {**export.metadata, "kinds": list(export.arrays)}
    if different := made_differently(made, json_ready(facts), SAME):
        raise TaskError(
            f"{str(export.path)!r} was made with {different}",
            "give the same options as then, or embed anew with --overwrite",
        )
