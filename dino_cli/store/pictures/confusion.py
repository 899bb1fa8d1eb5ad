"""The confusion matrix as a picture."""

import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dino_cli.store.writing.atomic import atomic_write

__all__ = ["draw_confusion"]

FEW = 20  # classes, up to which every cell has its number
MANY = 60  # classes, from which on no names are written


def draw_confusion(path: Path, counts: NDArray[np.int64], classes: Sequence[str], k: int) -> None:
    """Draw counts (C, C + 1), a row for each true class, columns the predicted ones and the
    rejected, as a .png. Colours are shares of a row. Raises `OSError`."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    names = list(classes)
    shown = counts if counts[:, -1].any() else counts[:, :-1]
    across = [*names, "rejected"][: shown.shape[1]]
    totals = counts.sum(axis=1, keepdims=True)
    shares = np.divide(shown, totals, out=np.zeros(shown.shape), where=totals > 0)
    side = min(24.0, max(4.5, 0.42 * len(names) + 2.2))
    figure = Figure(figsize=(side + 1.2, side), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    drawn = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1, interpolation="nearest")
    right = int(np.trace(counts)) / max(1, int(counts.sum()))
    axes.set_title(f"{int(counts.sum())} queries, k = {k}: {100 * right:.1f} % right", fontsize=11)
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    if len(names) <= MANY:
        axes.set_xticks(
            range(len(across)),
            [_short(n) for n in across],
            rotation=60,
            ha="right",
            rotation_mode="anchor",
            fontsize=8,
        )
        axes.set_yticks(range(len(names)), [_short(n) for n in names], fontsize=8)
    if len(names) <= FEW:
        for (i, j), count in np.ndenumerate(shown):
            if count:
                colour = "white" if shares[i, j] > 0.5 else "#333333"
                axes.text(j, i, str(count), ha="center", va="center", fontsize=8, color=colour)
    bar = figure.colorbar(drawn, ax=axes, shrink=0.8)
    bar.set_label("share of the true class", fontsize=9)
    with atomic_write(path) as temporary, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of letters that the font lacks, drawn as boxes
        figure.savefig(temporary, format="png")


def _short(name: str) -> str:
    # A byte that is no UTF-8 cannot be drawn, and matplotlib reads dollars as mathematics.
    plain = " ".join(name.encode("utf-8", "replace").decode().split())
    return (plain if len(plain) <= 24 else plain[:23] + "…").replace("$", r"\$")
