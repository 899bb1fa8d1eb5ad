"""Validation images for the page, from all votes for their class to none, with their neighbours."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dino_cli.config.eval_knn import EvalKnnConfig
from dino_cli.progress import Reporter
from dino_cli.tasks.eval.report import Example, spread
from dino_cli.tasks.eval.tiles import photo_tiles
from dino_cli.tasks.knn.bank import Bank
from dino_cli.tasks.knn.search import NeighborBlock, vote

__all__ = ["ExampleChooser", "examples"]

SHOWN = 5  # neighbours of an image


class ExampleChooser:
    """Sees every query and chooses six; of each it keeps the share of the votes and five rows."""

    def __init__(self, bank: Bank, k: int, temperature: float) -> None:
        self.bank, self.k, self.temperature = bank, k, temperature
        self._paths: list[str] = []
        self._labels: list[str] = []
        self._shares: list[NDArray[np.float32]] = []
        self._rows: list[NDArray[np.int64]] = []

    def add(self, found: NeighborBlock) -> None:
        """A block of queries. Those whose label is no class of the index are left out."""
        numbers = [self.bank.numbers.get(label, -1) for label in found.labels]
        judged = [i for i, number in enumerate(numbers) if number >= 0]
        order, shares = vote(found, self.bank, self.k, self.temperature)
        own = order[judged] == order.new_tensor([numbers[i] for i in judged])[:, None]
        self._shares.append(shares[judged][own].cpu().numpy())
        self._rows.append(found.rows[judged, :SHOWN].cpu().numpy())
        self._paths += [found.paths[i] for i in judged]
        self._labels += [found.labels[i] for i in judged]

    def chosen(self) -> list[dict[str, Any]]:
        """Six queries, evenly spread over the order by the share of the votes for their class."""
        if not self._paths:
            return []
        shares, rows = np.concatenate(self._shares), np.concatenate(self._rows)
        order = np.argsort(-shares, kind="stable")
        index = self.bank.index
        return [
            {
                "path": self._paths[i],
                "label": self._labels[i],
                "share": float(shares[i]),
                "nearest": [
                    {"path": index.paths[row], "label": index.labels[row]}
                    for row in rows[i].tolist()
                ],
            }
            for i in order[spread(len(order))].tolist()
        ]


def examples(
    config: EvalKnnConfig, result: Mapping[str, Any], _reporter: Reporter
) -> list[Example]:
    """The images that `result["examples"]` names, each before its nearest of the training images.

    What cannot be read any more is left out: feature files may be older than their images.
    """
    shown = []
    for one in result["examples"]:
        photos = [(one["path"], one["label"])]
        photos += [
            (near["path"], f"{rank}, {near['label']}")
            for rank, near in enumerate(one["nearest"], 1)
        ]
        if tiles := photo_tiles(photos, exif=config.exif):
            title = f"{Path(one['path']).name}, {100 * one['share']:.0f} % of the votes"
            shown.append(Example(title=f"{title} for its class", tiles=tiles))
    return shown
