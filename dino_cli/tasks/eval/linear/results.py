"""What came of a linear classifier: accuracies, predictions, and the files of its report."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dino_cli.config.eval_linear import EvalLinearConfig
from dino_cli.core.evaluation.linear import LinearClassifiers, top_hits
from dino_cli.store.classifier import Classifier, write_classifier
from dino_cli.store.writing.tables import csv_table
from dino_cli.tasks.eval.linear.sets import FeatureSource, FrozenFeatures
from dino_cli.tasks.eval.linear.training import TrainedClassifier
from dino_cli.tasks.eval.report import Example, Table, write_report
from dino_cli.tasks.provenance import model_facts

__all__ = [
    "FILES",
    "PREDICTIONS",
    "agreement",
    "figures",
    "judge",
    "leave",
    "logits_of",
    "predict",
    "tables",
]

CLASSIFIER, PREDICTIONS, PER_CLASS = "classifier.safetensors", "predictions.csv", "per_class.csv"
FILES = (CLASSIFIER, PREDICTIONS, PER_CLASS)
FEWEST_FOR_TOP5 = 5


def logits_of(trained: TrainedClassifier, features: Tensor) -> Tensor:
    layer = LinearClassifiers.of(trained.weight[None], trained.bias[None])
    return layer.logits(features)[0]


def judge(logits: Tensor, labels: Tensor, classes: list[str]) -> dict[str, Any]:
    """logits: (N, classes); labels: int64 (N,)."""
    hits = top_hits(logits, labels)
    counts = torch.bincount(labels, minlength=len(classes))
    right = torch.bincount(labels[hits.top1], minlength=len(classes))
    result: dict[str, Any] = {"top1": float(hits.top1.double().mean())}
    if len(classes) >= FEWEST_FOR_TOP5:
        result["top5"] = float(hits.top5.double().mean())
    result["images"] = len(labels)
    result["per_class"] = {
        name: {"images": n, "top1": r / n}
        for name, n, r in zip(classes, counts.tolist(), right.tolist(), strict=True)
        if n
    }
    return result


def agreement(a: TrainedClassifier, b: TrainedClassifier, judged: FrozenFeatures) -> float:
    """Share of images that both classifiers put into the same class."""
    first, second = (logits_of(one, judged.features).argmax(dim=1) for one in (a, b))
    return float((first == second).double().mean())


def predict(
    trained: TrainedClassifier, named: FrozenFeatures, classes: list[str]
) -> list[dict[str, Any]]:
    shares = logits_of(trained, named.features).softmax(dim=1).cpu()
    best = shares.max(dim=1)
    return [
        {
            "path": file.path.as_posix(),
            "predicted": classes[int(i)],
            "probability": float(f"{float(value):.6g}"),
            "label": file.label,
        }
        for file, value, i in zip(named.files, best.values, best.indices, strict=True)
    ]


def leave(
    stage: Path,
    result: dict[str, Any],
    trained: TrainedClassifier,
    classes: list[str],
    config: EvalLinearConfig,
    seen: FeatureSource,
    pictures: Sequence[Example],
) -> None:
    if config.classifier is None:
        facts = {
            "classes": classes,
            "n_last_blocks": seen.layer.blocks,
            "avgpool": seen.layer.avgpool,
            **seen.model.identity,
            **model_facts(config),
            "preprocessing": asdict(seen.preprocessing),
        }
        classifier = Classifier(trained.weight, trained.bias, facts)
        write_classifier(stage / CLASSIFIER, classifier)
    if "predictions" in result:
        with csv_table(stage / PREDICTIONS, tuple(result["predictions"][0])) as write:
            for row in result["predictions"]:
                write(list(row.values()))
    if "per_class" in result:
        with csv_table(stage / PER_CLASS, ("class", "images", "top1")) as write:
            for name, row in result["per_class"].items():
                write((name, row["images"], row["top1"]))
    shown = {key: value for key, value in result.items() if key != "predictions"}
    write_report(stage, "linear", shown, figures(shown), tables(shown), pictures)


def figures(result: Mapping[str, Any]) -> dict[str, float]:
    """Top-1 in percent; none where nothing was judged."""
    return {"top-1": 100 * result["top1"]} if "top1" in result else {}


def tables(result: Mapping[str, Any]) -> list[Table]:
    """The accuracies, the protocols side by side, the rates tried, and each class."""
    shown = []
    if "top1" in result:
        shown.append(_accuracies(result))
    if result.get("sweep"):
        shown.append(
            Table(
                title=f"Learning rates tried on held-out training images; {result['lr']:g} is used",
                columns=("rate per 256", "top-1 %"),
                rows=[[lr, f"{100 * top1:.2f}"] for lr, top1 in result["sweep"].items()],
            )
        )
    if "per_class" in result:
        shown.append(
            Table(
                title="By class",
                columns=("class", "images", "top-1 %"),
                rows=[
                    [name, str(one["images"]), f"{100 * one['top1']:.1f}"]
                    for name, one in result["per_class"].items()
                ],
            )
        )
    if "predictions" in result:
        shown.append(
            Table(
                title="",
                columns=("path", "predicted", "probability"),
                rows=[
                    [one["path"], one["predicted"], f"{one['probability']:.3f}"]
                    for one in result["predictions"]
                ],
            )
        )
    return shown


def _accuracies(result: Mapping[str, Any]) -> Table:
    columns = ["protocol", "top-1 %"]
    rows = [[result["protocol"], f"{100 * result['top1']:.2f}"]]
    fast = result.get("fast")
    if fast:
        rows.append(["fast", f"{100 * fast['top1']:.2f}"])
    if "top5" in result:
        columns.append("top-5 %")
        for row, one in zip(rows, (result, fast), strict=False):
            row.append(f"{100 * one['top5']:.2f}" if one else "")
    if "history" in result:
        columns.append("best epoch %")
        rows[0].append(f"{100 * result['best_top1']:.2f}")
        for row in rows[1:]:
            row.append("")
    note = ""
    if fast:
        note = f"Both name the same class for {100 * fast['agreement']:.1f} % of the images."
    return Table(
        title=f"{result['images']} images of {len(result['classes'])} classes",
        columns=columns,
        rows=rows,
        note=note,
    )
