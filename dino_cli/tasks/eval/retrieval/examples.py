"""Queries for the page, from the best to the worst, each before what the network finds nearest."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dino_cli.config.eval_retrieval import EvalRetrievalConfig
from dino_cli.data.decoding.thumbnails import small_picture
from dino_cli.progress import Reporter
from dino_cli.store.pages import picture
from dino_cli.tasks.eval.report import Example, ExampleTile, spread
from dino_cli.tasks.eval.retrieval.ranking import Ranking

__all__ = ["choose_examples", "examples"]

SIDE = 200  # pixels of a tile's longer side
TOLD = {True: "right", False: "wrong", None: "not counted"}


def choose_examples(
    rankings: Sequence[Ranking], queries: Sequence[str], database: Sequence[str]
) -> list[dict[str, Any]]:
    """Six queries, evenly spread over the order by average precision. queries, database: paths."""
    order = sorted(rankings, key=lambda one: -one.average_precision)
    return [
        {
            "path": queries[one.query],
            "average_precision": one.average_precision,
            "nearest": [
                {"path": database[i], "relevant": relevant}
                for i, relevant in zip(one.nearest, one.relevant, strict=True)
            ],
        }
        for one in (order[place] for place in spread(len(order)))
    ]


def examples(
    config: EvalRetrievalConfig, result: Mapping[str, Any], _reporter: Reporter
) -> list[Example]:
    """The queries that `result["examples"]` names. What cannot be read any more is left out."""
    drawn = []
    for one in result["examples"]:
        tiles = [
            _tile(one["path"], "asked", config.exif),
            *(
                _tile(near["path"], f"{rank}, {TOLD[near['relevant']]}", config.exif)
                for rank, near in enumerate(one["nearest"], 1)
            ),
        ]
        title = (
            f"{Path(one['path']).name}, average precision {100 * one['average_precision']:.1f} %"
        )
        drawn.append(Example(title=title, tiles=[tile for tile in tiles if tile is not None]))
    return drawn


def _tile(path: str, caption: str, exif: bool) -> ExampleTile | None:
    try:
        shown = small_picture(Path(path), exif=exif, side=SIDE)
    except ValueError:
        return None
    return ExampleTile(picture(shown, Path(path).name), caption)
