"""All blocks as one export, with what tells what it is."""

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from dino_cli.config.embed import EmbedConfig
from dino_cli.core.network.features import GRID_KINDS, Kind
from dino_cli.progress import Reporter
from dino_cli.store.embeddings.blocks import Blocks
from dino_cli.store.embeddings.formats import is_utf8
from dino_cli.store.embeddings.writing import write_export
from dino_cli.store.writing.tables import skipped_path, write_skipped
from dino_cli.store.writing.targets import explain_errors
from dino_cli.tasks.embed.merge import MergedBlocks
from dino_cli.tasks.projection import project

__all__ = ["write_output"]


def write_output(
    config: EmbedConfig,
    kinds: Sequence[Kind],
    blocks: Blocks,
    merged: MergedBlocks,
    facts: Mapping[str, Any],
    reporter: Reporter,
) -> None:
    """Write the export and its list of skipped files, and put both in place at once.

    facts: what made the features. Raises `TaskError` for what cannot be written.
    """
    shape = merged.shapes[kinds[0]][0]
    content: dict[str, Any] = {
        **{key: value for key, value in facts.items() if key != "kinds"},
        "dim": shape[-1],
        "count": merged.count,
        "classes": sorted(merged.classes),
        "arrays": {
            kind: {"shape": list(one), "dtype": dtype}
            for kind, (one, dtype) in merged.shapes.items()
        },
    }
    for kind, (one, _) in merged.shapes.items():
        if kind in GRID_KINDS:
            content["grid"] = list(one[:2])
    projected = None
    if config.output.suffix == ".parquet":
        content["thumbnails"] = config.thumbnails
        _tell_of_names([row.path for row in merged.rows() if not is_utf8(row.path)], reporter)
        if config.project:
            # Features are in memory then, four bytes for each number.
            whole = np.concatenate(list(merged.arrays(kinds[0])))
            projected, content["projection"] = project(whole, reporter)
    reporter.stage("writing", merged.count, "rows")
    folder = blocks.finished()
    write_export(folder, config.output.name, merged, content, projected=projected)
    with explain_errors(config.output):
        write_skipped(folder / config.output.name, merged.skipped)
    stale = [skipped_path(config.output)] if blocks.replaces else []
    blocks.publish(stale)
    reporter.finish()


def _tell_of_names(escaped: Sequence[str], reporter: Reporter) -> None:
    """escaped: paths that are no UTF-8, which is all that a .parquet holds."""
    if not escaped:
        return
    first = os.fsencode(escaped[0]).decode("utf-8", "backslashreplace")
    few = len(escaped) == 1
    which = f"the path '{first}' is" if few else f"{len(escaped)} paths, the first '{first}', are"
    reporter.remark(
        f"{which} not valid UTF-8: the .parquet has \\xNN for such bytes, which other programs"
        " take as it stands"
    )
