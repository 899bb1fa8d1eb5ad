"""Copies for the page, from the one whose original is found first to the one found last."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dino_cli.config.eval_copies import EvalCopiesConfig
from dino_cli.progress import Reporter
from dino_cli.tasks.eval.copies.blocks import ORIGINAL, CopyBlock
from dino_cli.tasks.eval.report import Example, spread
from dino_cli.tasks.eval.tiles import photo_tiles

__all__ = ["choose_examples", "examples"]


def choose_examples(
    blocks: Sequence[CopyBlock], pairs: Sequence[tuple[int, int]], ranks: Sequence[int]
) -> list[dict[str, Any]]:
    """Six altered copies, evenly spread over the order by their originals' ranks (from 0).

    pairs: (query, original), queries numbered through all blocks, the originals first.
    """
    originals = blocks[0].files
    copies = [(block.name, file) for block in blocks for file in block.files]
    altered = [
        (rank, query, original)
        for (query, original), rank in zip(pairs, ranks, strict=True)
        if copies[query][0] != ORIGINAL
    ]
    altered.sort()
    return [
        {
            "path": copies[query][1].path.as_posix(),
            "block": copies[query][0],
            "original": originals[original].path.as_posix(),
            "rank": int(rank) + 1,
        }
        for rank, query, original in (altered[place] for place in spread(len(altered)))
    ]


def examples(
    config: EvalCopiesConfig, result: Mapping[str, Any], _reporter: Reporter
) -> list[Example]:
    """The copies that `result["examples"]` names, each before its original, in one grid."""
    photos = [
        (path, caption)
        for one in result["examples"]
        for path, caption in (
            (one["path"], f"{Path(one['path']).name} of {one['block']}"),
            (one["original"], f"its original, at place {one['rank']}"),
        )
    ]
    tiles = photo_tiles(photos, exif=config.exif)
    return [Example(title="Copies, each before its original", tiles=tiles)] if tiles else []
