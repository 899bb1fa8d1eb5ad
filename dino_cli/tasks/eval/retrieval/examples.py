"""Queries for the page, from the best to the worst, each before what the network finds nearest."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dino_cli.config.eval_retrieval import EvalRetrievalConfig
from dino_cli.progress import Reporter
from dino_cli.tasks.eval.report import Example, spread
from dino_cli.tasks.eval.retrieval.ranking import Ranking
from dino_cli.tasks.eval.tiles import photo_tiles

__all__ = ["choose_examples", "examples"]

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
    return [
        Example(
            title=f"{Path(one['path']).name}, average precision"
            f" {100 * one['average_precision']:.1f} %",
            tiles=photo_tiles(
                [
                    (one["path"], "asked"),
                    *(
                        (near["path"], f"{rank}, {TOLD[near['relevant']]}")
                        for rank, near in enumerate(one["nearest"], 1)
                    ),
                ],
                exif=config.exif,
            ),
        )
        for one in result["examples"]
    ]
