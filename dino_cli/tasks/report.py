"""`dino report`: the page about a training run, from what lies in its folder."""

import math
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from dino_cli import __version__
from dino_cli.config.report import ReportConfig
from dino_cli.config.resolve import read_run, stored
from dino_cli.config.setting import arguments, options
from dino_cli.config.train import TrainConfig
from dino_cli.data.views.batches import BatchPlan
from dino_cli.errors import TaskError, UsageError
from dino_cli.progress import Reporter
from dino_cli.store.pages import Chart, heat, line_chart, picture, write_page
from dino_cli.store.runs.folder import RunFolder
from dino_cli.store.runs.log import Log
from dino_cli.store.runs.watched import read_attention, read_photos
from dino_cli.store.writing.targets import check_files, explain_errors
from dino_cli.tasks.train.diagnosis import Diagnosis

__all__ = ["charts_of", "report"]

POINTS = 500  # of a curve; more lines are averaged
ROWS = 9  # epochs whose attention is shown

CURVES = (
    ("learning", "loss", "Loss in nats: how badly the student predicts the teacher."),
    ("learning", "target_spread", "Spread of the targets in nats; under 0.3 is collapse."),
    ("learning", "entropy_share", "Entropy of the targets, as a share of ln K."),
    (
        "learning",
        "target_kl",
        "Divergence in nats between the targets of two views of an image.",
    ),
    ("learning", "feature_rank", "Effective rank of the features over a batch."),
    ("learning", "feature_std", "Standard deviation of the features; 0 is collapse to a point."),
    ("learning", "koleo", "KoLeo regulariser, unweighted; lower: features lie further apart."),
    ("learning", "prototypes", "Prototypes that a batch shares out."),
    ("schedules", "lr", "Learning rate."),
    ("schedules", "weight_decay", "Weight decay."),
    ("schedules", "momentum", "Momentum of the teacher."),
    ("schedules", "teacher_temperature", "Temperature of the teacher."),
    ("schedules", "gradient_norm", "Norm of the gradient, before clipping."),
    ("schedules", "update_ratio", "Length of a step, as a share of the weights' length."),
    ("speed", "images_per_second", "Images per second."),
    ("speed", "data_wait", "Share of the time spent waiting for images."),
    ("speed", "memory_gib", "Memory in GiB."),
)


def report(config: ReportConfig, reporter: Reporter) -> dict[str, Any]:
    """Write the page; returns {"page", "run", "steps", "of", "loss", "knn_top1", "remarks"}.

    Raises `TaskError` for a folder without a run or without a line in its log.
    """
    folder = RunFolder(config.run)
    described = read_run(config.run)
    page = config.output or config.run / "report.html"
    if page.suffix.lower() not in (".html", ".htm"):
        raise UsageError(f"the report is a page, which {str(page)!r} is not", "use -o report.html")
    check_files([page], overwrite=config.overwrite)
    entries = Log.read(folder.log)
    lines = [entry for entry in entries if "step" in entry]
    if not lines:
        raise TaskError(f"{folder.log} has no step yet", "wait for the first line of the log")
    train = stored(described, folder.config)
    counts = _counts(described.get("run"))
    of = int(counts.get("steps", lines[-1]["step"] + 1))
    knn = {
        entry["epoch"] + 1: entry["knn_top1"]
        for entry in entries
        if entry.get("knn_top1") is not None and "epoch" in entry
    }
    remarks = _diagnose(train, counts, lines)
    charts = charts_of(lines, knn)
    result = {
        "page": str(page),
        "run": str(config.run),
        "steps": _reached(entries, counts),
        "of": of,
        "loss": lines[-1]["loss"],
        "knn_top1": knn[max(knn)] if knn else None,
        "remarks": remarks,
    }
    values = {
        "title": f"{config.run.resolve().name}: a run of dino train",
        "version": __version__,
        "name": config.run.resolve().name,
        "result": result,
        "images": counts.get("images"),
        "rate": median(entry.get("images_per_second") or 0.0 for entry in lines),
        "last": lines[-1],
        "knn": knn,
        "charts": charts,
        "watched": _watched(folder.watch),
        "command": command_of(train, config.run),
        "settings": _settings(train),
    }
    with explain_errors(page, "choose another -o"):
        write_page(page, "report", values)
    return result


def command_of(config: TrainConfig, run: Path) -> str:
    """A command line that starts this run anew: every option that is not at its default."""
    plain = TrainConfig()
    changed = [
        f.name
        for f in options(TrainConfig)
        if getattr(config, f.name) != getattr(plain, f.name)
        and f.name not in ("resume", "preset", "config", "dry_run", "output", "print_sbatch")
    ]
    return "dino train " + shlex.join(["-o", str(run), *arguments(config, changed)])


class _Heard(Reporter):
    def __init__(self) -> None:
        self.remarks: list[str] = []

    def remark(self, text: str) -> None:
        self.remarks.append(text)


def _counts(values: Any) -> dict[str, int]:
    """What config.json says of the run's length, as far as these are counts."""
    values = values if isinstance(values, dict) else {}
    return {key: n for key, n in values.items() if type(n) is int and 0 < n < 2**53}


def _reached(entries: Sequence[Mapping[str, Any]], counts: Mapping[str, int]) -> int:
    """Steps that the log knows of: an epoch may have ended after the last logged one."""
    per_epoch = counts.get("images", 0) // counts.get("total_batch", 1)
    return max(
        int(entry["step"] + 1 if "step" in entry else (entry["epoch"] + 1) * per_epoch)
        for entry in entries
    )


def _diagnose(
    config: TrainConfig, counts: Mapping[str, Any], lines: Sequence[Mapping[str, Any]]
) -> list[str]:
    """What the run itself said as it went, from its log."""
    if not {"images", "total_batch"} <= counts.keys():
        return []
    plan = BatchPlan(
        images=counts["images"], epochs=config.epochs, batch=counts["total_batch"], seed=config.seed
    )
    heard = _Heard()
    diagnosis, before = Diagnosis(config, plan, heard), -1
    wanted = {"target_spread", "entropy_share", "update_ratio", "data_wait", "loss"}
    wanted |= {"images_per_second"}
    for line in lines:
        images = (line["step"] - before) * plan.total_batch
        before = line["step"]
        if wanted <= line.keys():
            diagnosis.see(line, images / max(line["images_per_second"], 1e-9))
    if before + 1 == min(plan.steps, config.max_steps or plan.steps):
        diagnosis.end()
    return heard.remarks


def charts_of(
    lines: Sequence[Mapping[str, Any]], knn: Mapping[int, float]
) -> dict[str, list[Chart]]:
    """By group: a chart of each figure that two lines of the log have. knn: percent, by epoch."""
    charts: dict[str, list[Chart]] = {"learning": [], "schedules": [], "speed": []}
    if len(knn) > 1:
        charts["learning"].append(
            line_chart(
                list(knn),
                list(knn.values()),
                x_label="epoch",
                y_label="k-NN top-1 in percent, leave-one-out over the evaluation images.",
                alt=f"k-NN from {next(iter(knn.values())):.1f} to {list(knn.values())[-1]:.1f} %.",
            )
        )
    for group, name, text in CURVES:
        points = [
            (line["step"], line[name])
            for line in lines
            if line.get(name) is not None and math.isfinite(line[name])
        ]
        if len(points) < 2:
            continue
        x, y = _thinned(np.array(points, dtype=np.float64))
        charts[group].append(
            line_chart(
                x,
                y,
                x_label="step",
                y_label=text,
                alt=f"{name} from {y[0]:.4g} to {y[-1]:.4g}.",
                y_range=(min(y), max(y)) if name == "momentum" else None,
            )
        )
    return charts


def _thinned(points: np.ndarray[Any, np.dtype[np.float64]]) -> tuple[list[float], list[float]]:
    """Means of neighbours, so that a long log does not make a page of megabytes."""
    parts = np.array_split(points, min(POINTS, len(points)))
    return [float(part[-1, 0]) for part in parts], [float(part[:, 1].mean()) for part in parts]


def _watched(folder: Path) -> dict[str, Any] | None:
    """Mean attention of each photo over the epochs, and every head at the last one."""
    photos, kept = read_photos(folder), read_attention(folder)
    kept = {epoch: a for epoch, a in kept.items() if a.shape[0] == len(photos)}
    if not photos or not kept:
        return None
    epochs = list(kept)
    # Objects emerge early: the rows grow further apart.
    chosen = sorted({round(i) for i in np.geomspace(1, len(epochs), min(ROWS, len(epochs)))})
    rows = [
        {
            "epoch": epochs[i - 1],
            "pictures": [
                heat(one.mean(axis=0), f"Photo {n + 1}: attention after {epochs[i - 1]} epochs.")
                for n, one in enumerate(kept[epochs[i - 1]])
            ],
        }
        for i in chosen
    ]
    last = kept[epochs[-1]]
    heads = [
        [heat(head, f"Photo {n + 1}, head {h}.") for h, head in enumerate(one)]
        for n, one in enumerate(last)
    ]
    return {
        "photos": [picture(photo, f"Photo {n + 1}.") for n, photo in enumerate(photos)],
        "rows": rows,
        "heads": heads,
        "epoch": epochs[-1],
    }


def _settings(config: TrainConfig) -> list[tuple[str, str]]:
    """Every option and its value, those that differ from the default first."""
    plain, rows = TrainConfig(), []
    for f in options(TrainConfig):
        value = getattr(config, f.name)
        shown = " ".join(str(v) for v in value) if isinstance(value, tuple) else str(value)
        rows.append((value == getattr(plain, f.name), f.name.replace("_", "-"), shown))
    return [(name, shown) for _, name, shown in sorted(rows)]
