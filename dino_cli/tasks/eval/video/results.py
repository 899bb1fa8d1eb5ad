"""What the labels that were carried through videos are worth: the official evaluator's table."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dino_cli.config.values import counted
from dino_cli.core.evaluation.region import statistics
from dino_cli.tasks.eval.report import Table
from dino_cli.tasks.eval.video.labels import RegionScores

__all__ = ["VideoScore", "figures", "is_score", "score_table", "tables"]

YEAR = 366 * 86400  # seconds that a video takes at most
HEADLINE = "J&F-Mean"
COLUMNS = (HEADLINE, "J-Mean", "J-Recall", "J-Decay", "F-Mean", "F-Recall", "F-Decay")


@dataclass(frozen=True)
class VideoScore:
    """A video that is done, as its `scores.json` keeps it. still: of the first mask, copied."""

    video: str
    objects: int
    frames: int
    seconds: float
    measured: RegionScores
    still: RegionScores


def is_score(score: Any, name: str) -> bool:
    """Whether what a file says is that video's: shares of each object in equally many frames."""
    if score.video != name or not _within(score.seconds, YEAR):
        return False
    if not isinstance(score.objects, int) or not isinstance(score.frames, int):
        return False
    parts = [part for one in (score.measured, score.still) for part in (one.region, one.contour)]
    if any(not isinstance(part, list) or len(part) != score.objects for part in parts):
        return False
    rows = [row for part in parts for row in part]
    return all(
        isinstance(row, list) and len(row) == len(rows[0]) and all(_within(x, 1) for x in row)
        for row in rows
    )


def _within(value: Any, most: float) -> bool:
    return isinstance(value, int | float) and 0 <= value <= most


def score_table(measures: Sequence[tuple[VideoScore, RegionScores]]) -> dict[str, Any]:
    """Mean, recall and decay of J and F over all objects of all videos, each object alike."""
    per_object: dict[str, dict[str, float]] = {}
    columns: dict[str, list[float]] = {}
    for score, measured in measures:
        for i in range(score.objects):
            if not measured.region[i]:
                continue
            own = per_object[f"{score.video}_{i + 1}"] = {}
            for name, values in (("J", measured.region[i]), ("F", measured.contour[i])):
                s = statistics(values)
                own[name] = s.mean
                for column, value in (("Mean", s.mean), ("Recall", s.recall), ("Decay", s.decay)):
                    columns.setdefault(f"{name}-{column}", []).append(value)
    means = {name: sum(values) / len(values) for name, values in columns.items()}
    if means:
        means[HEADLINE] = (means["J-Mean"] + means["F-Mean"]) / 2
    return {**{name: means.get(name) for name in COLUMNS}, "per_object": per_object}


def figures(result: Mapping[str, Any]) -> dict[str, float]:
    """The published columns, in percent; empty when nothing was measured."""
    shown = (HEADLINE, "J-Mean", "F-Mean")
    return {name: 100 * result[name] for name in shown if result[name] is not None}


def tables(result: Mapping[str, Any]) -> list[Table]:
    """The official table beside that of zero motion, and each object."""
    still, objects = result["zero_motion"], result["per_object"]
    title = (
        f"{counted(result['videos'], 'video')}, {counted(result['objects'], 'object')},"
        f" {counted(result['frames'], 'frame')}, {result['seconds_per_frame']:.3g} s a frame"
    )
    if not objects:
        return [Table(title=title, columns=("video", "measured"), rows=[["all", "nothing"]])]
    return [
        Table(
            title=title,
            columns=("%", str(result["model"]), "zero motion"),
            rows=[[name, _percent(result[name]), _percent(still[name])] for name in COLUMNS],
            note="J: overlap of the regions, F: fit of the contours; their means, the share of"
            " frames above one half, and the loss from the first to the last quarter. Zero motion"
            " copies the first mask to every frame.",
        ),
        Table(
            title="Each object",
            columns=("object", "J", "F", "J, zero motion", "F, zero motion"),
            rows=[
                [
                    name,
                    *(
                        _percent(row[name][m])
                        for row in (objects, still["per_object"])
                        for m in "JF"
                    ),
                ]
                for name in objects
            ],
        ),
    ]


def _percent(value: float) -> str:
    return f"{100 * value:.1f}"
