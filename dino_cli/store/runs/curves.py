"""The loss curve of a run, as a picture."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dino_cli.store.writing.atomic import atomic_write

__all__ = ["draw_loss"]


def _finite(value: float | None) -> float:
    return value if value is not None and math.isfinite(value) else math.nan


def draw_loss(entries: Sequence[Mapping[str, Any]], path: Path) -> None:
    """loss.png from the entries of a log: loss, and the teacher's entropy and spread, by step."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    steps = [e for e in entries if "step" in e and e.get("loss") is not None]
    if not steps:
        return
    x = [e["step"] for e in steps]

    def figures(name: str) -> list[float]:  # a damaged line may lack one
        return [_finite(e.get(name)) for e in steps]

    # Fixed margins: a layout engine would draw everything twice.
    figure = Figure(figsize=(8, 4.5), dpi=110)
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0.08, 0.11, 0.9, 0.81))
    axes.plot(x, figures("loss"), color="#1b6ca8", linewidth=1.2, label="loss")
    axes.plot(
        x,
        figures("teacher_entropy"),
        color="#c8553d",
        linewidth=1.0,
        label="teacher entropy",
    )
    axes.plot(
        x,
        figures("target_spread"),
        color="#588b3c",
        linewidth=1.0,
        label="target spread",
    )
    axes.set_xlabel("step")
    axes.set_ylabel("nats")
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, ncols=3, loc="lower right", bbox_to_anchor=(1, 1))  # no curve there
    with atomic_write(path) as temporary:
        figure.savefig(temporary, format="png")
