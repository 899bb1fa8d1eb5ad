"""Training the linear classifier: the paper's protocol, and the fast one on cached features."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dino_cli.config.eval_linear import EvalLinearConfig
from dino_cli.config.setting import json_ready
from dino_cli.config.values import counted, difference
from dino_cli.core.evaluation.linear import LinearClassifiers, cosine_rate, top_hits
from dino_cli.data.listing.image_list import ImageFile
from dino_cli.data.preprocess import normalize
from dino_cli.data.views.draws import epoch_order
from dino_cli.data.views.linear_crops import augmented_batches
from dino_cli.errors import Interrupted, TaskError
from dino_cli.progress import Reporter
from dino_cli.store.weights.tensor_files import read_tensor_file
from dino_cli.store.writing.atomic import atomic_write
from dino_cli.store.writing.targets import explain_errors
from dino_cli.tasks.embed.forward import explain_network
from dino_cli.tasks.eval.linear.sets import FeatureSource, FrozenFeatures
from dino_cli.tasks.provenance import model_facts
from dino_cli.tasks.unreadable import cannot_read, nothing_read, tell_skipped

__all__ = [
    "CHECKPOINT",
    "SWEEP",
    "TrainedClassifier",
    "kept_tensor",
    "run_facts",
    "train_fast",
    "train_full",
]

FORMAT = 1
CHECKPOINT = "checkpoint.pt"
CROP = 224
# Learning rates per 256 images of the fast protocol; without augmentation the best is not the full
# protocol's, and depends on the length of the features.
SWEEP = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1, 1.0)
HELD_OUT = 10  # one image of so many chooses the rate


@dataclass
class TrainedClassifier:
    """One classifier, weight (C, D) and bias (C,), and how it came about.

    history: of each epoch `epoch`, `loss`, `lr`, `top1`. best: the best top-1 of any epoch.
    """

    weight: Tensor
    bias: Tensor
    history: list[dict[str, float]] = field(default_factory=list)
    best: float = 0.0
    lr: float = 0.0
    sweep: dict[str, float] = field(default_factory=dict)


def run_facts(
    config: EvalLinearConfig,
    seen: FeatureSource,
    classes: Sequence[str],
    files: Sequence[ImageFile],
) -> dict[str, Any]:
    """What must be the same for a run to go on; of the model its weights, not its name."""
    names = "\n".join(f"{file.relative.as_posix()}\t{file.label}" for file in files)
    return {
        **{key: seen.model.identity[key] for key in ("model", "weights_sha256", "precision")},
        **model_facts(config),
        "preprocessing": json_ready(asdict(seen.preprocessing)),
        "n_last_blocks": seen.layer.blocks,
        "avgpool": seen.layer.avgpool,
        "classes": len(classes),
        "images": hashlib.sha256(names.encode(errors="surrogateescape")).hexdigest()[:16],
        "epochs": config.epochs,
        "lr": config.lr,
        "batch_size": config.batch_size,
        "seed": config.seed,
        "exif": config.exif,
    }


def train_full(
    files: Sequence[ImageFile],
    classes: Sequence[str],
    val: FrozenFeatures,
    seen: FeatureSource,
    config: EvalLinearConfig,
    checkpoint: Path | None,
    reporter: Reporter,
) -> TrainedClassifier:
    """The paper's protocol: SGD over random crops of the images, through the frozen network.

    The rate is lr · batch / 256 and follows a cosine per epoch. With a checkpoint file it is kept
    after every epoch, and gone on from if `config.resume`; the result is the same.
    """
    number = {name: i for i, name in enumerate(classes)}
    device = seen.model.device
    facts = run_facts(config, seen, classes, files)
    layer = LinearClassifiers.fresh(
        1, len(classes), val.features.shape[1], seed=config.seed, device=device
    )
    trained = TrainedClassifier(layer.weight[0], layer.bias[0], lr=config.lr)
    if config.resume and checkpoint is not None and checkpoint.exists():
        layer, trained = _resumed(checkpoint, facts, layer)
    first = kept = len(trained.history)
    if first:
        reporter.remark(f"going on after {first} of {counted(config.epochs, 'epoch')}")
    reporter.stage("training", config.epochs * len(files), "images", done=first * len(files))
    try:
        for epoch in range(first, config.epochs):
            rate = cosine_rate(config.lr * config.batch_size / 256, epoch, config.epochs)
            loss = _epoch(layer, files, number, seen, config, epoch, rate, reporter)
            top1 = accuracy(layer, val, classes)
            trained.best = max(trained.best, top1)
            trained.history.append({"epoch": epoch, "loss": loss, "lr": rate, "top1": top1})
            reporter.metric({"epoch": epoch + 1, "loss": loss, "top-1 %": 100 * top1})
            if checkpoint is not None:
                _keep(checkpoint, facts, layer, trained)
                kept = epoch + 1
    except KeyboardInterrupt:
        raise _interrupted(kept, config, checkpoint) from None
    reporter.finish()
    trained.weight, trained.bias = layer.weight[0], layer.bias[0]
    return trained


def _epoch(
    layer: LinearClassifiers,
    files: Sequence[ImageFile],
    number: Mapping[str, int],
    seen: FeatureSource,
    config: EvalLinearConfig,
    epoch: int,
    rate: float,
    reporter: Reporter,
) -> float:
    """One pass over the images; the mean loss."""
    device, p = seen.model.device, seen.preprocessing
    rates = torch.tensor([rate], device=device)
    total, count = torch.zeros(1, device=device), 0
    skipped: list[tuple[str, str]] = []
    for batch in augmented_batches(
        files,
        size=p.crop or CROP,
        batch_size=config.batch_size,
        seed=config.seed,
        epoch=epoch,
        workers=config.workers,
        exif=p.exif,
    ):
        skipped += [(files[i].path.as_posix(), why) for i, why in batch.failures]
        if skipped and config.strict:
            raise cannot_read(*skipped[0])
        if batch.indices:
            labels = torch.tensor([number[files[i].label] for i in batch.indices], device=device)
            with explain_network():
                features = seen.layer.features(seen.model, normalize(batch.images, p, device))
            total += layer.step(features, labels, rates) * len(labels)
            count += len(labels)
        reporter.advance(len(batch.indices) + len(batch.failures))
    if not count:
        raise nothing_read(skipped)
    if epoch == 0:
        tell_skipped(skipped, reporter)
    return float(total) / count


def accuracy(layer: LinearClassifiers, val: FrozenFeatures, classes: Sequence[str]) -> float:
    """Top-1 of the first classifier, as a fraction."""
    logits = layer.logits(val.features)[0]
    return float(top_hits(logits, val.labels(classes)).top1.double().mean())


def train_fast(
    train: FrozenFeatures, classes: Sequence[str], config: EvalLinearConfig, reporter: Reporter
) -> TrainedClassifier:
    """Logistic regression on features that are computed once, for all rates of `SWEEP` at a time.

    A tenth of the images of each class is held out to choose the rate; the classifier is then
    trained with it on all of them. The validation images choose nothing.
    """
    labels = train.labels(classes)
    held = held_out(labels)
    chosen = config.lr
    sweep: dict[str, float] = {}
    passed = len(labels) + int((~held).sum()) * bool(held.any())
    steps = config.epochs * passed
    reporter.stage("fast protocol", steps, "features")
    if held.any():
        layers = _fit(train.features[~held], labels[~held], classes, SWEEP, config, reporter)
        hits = top_hits(layers.logits(train.features[held]), labels[held])
        scores = hits.top1.double().mean(dim=1).tolist()
        sweep = {f"{lr:g}": score for lr, score in zip(SWEEP, scores, strict=True)}
        best = [lr for lr, score in zip(SWEEP, scores, strict=True) if score == max(scores)]
        chosen = best[len(best) // 2]  # few held-out images tie; the middle is the safest
    layer = _fit(train.features, labels, classes, (chosen,), config, reporter)
    reporter.finish()
    return TrainedClassifier(layer.weight[0], layer.bias[0], lr=chosen, sweep=sweep)


def held_out(labels: Tensor) -> Tensor:
    """Every tenth image of each class, from the first; none of a class of one: bool (N,)."""
    held = torch.zeros_like(labels, dtype=torch.bool)
    for label in sorted(set(labels.tolist())):
        own = (labels == label).nonzero()[:, 0]
        if len(own) > 1:
            held[own[::HELD_OUT]] = True
    return held


def _fit(
    features: Tensor,
    labels: Tensor,
    classes: Sequence[str],
    rates: Sequence[float],
    config: EvalLinearConfig,
    reporter: Reporter,
) -> LinearClassifiers:
    device = features.device
    layers = LinearClassifiers.fresh(
        len(rates), len(classes), features.shape[1], seed=config.seed, device=device
    )
    base = torch.tensor(rates, device=device) * config.batch_size / 256
    for epoch in range(config.epochs):
        order = torch.from_numpy(epoch_order(len(labels), config.seed, epoch)).to(device)
        for batch in torch.split(order, config.batch_size):
            layers.step(
                features[batch], labels[batch], cosine_rate(1.0, epoch, config.epochs) * base
            )
        reporter.advance(len(labels))
    return layers


def _keep(
    path: Path, facts: Mapping[str, Any], layer: LinearClassifiers, trained: TrainedClassifier
) -> None:
    state = {
        "format": FORMAT,
        "facts": json.dumps(facts),
        "history": json.dumps(trained.history),
        "best": trained.best,
        **{name: getattr(layer, name).cpu() for name in TENSORS},
    }
    with explain_errors(path), atomic_write(path) as temporary:
        torch.save(state, temporary)


TENSORS = ("weight", "bias", "weight_velocity", "bias_velocity")
HISTORY = ("epoch", "loss", "lr", "top1")


def _resumed(
    path: Path, facts: Mapping[str, Any], fresh: LinearClassifiers
) -> tuple[LinearClassifiers, TrainedClassifier]:
    """Raises `TaskError` when the checkpoint is damaged or of another run.

    fresh: layers of the same shapes and device.
    """
    state = read_tensor_file(path).content
    try:
        if state["format"] != FORMAT:
            raise KeyError("format")
        made = {"model": "another model", **json.loads(state["facts"])}
        history = json.loads(state["history"])
        for entry in history:
            if any(not isinstance(entry[key], int | float) for key in HISTORY):
                raise ValueError("history")
        best = float(state["best"])
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError):
        raise TaskError(
            f"{str(path)!r} is not a checkpoint of `dino eval linear`",
            "start anew with --overwrite",
        ) from None
    told = [key for key in facts if key in made and key != "model"]  # older ones tell less
    if different := difference(made, facts, told):
        raise TaskError(
            f"the checkpoint {str(path)!r} is of another run, made with {different}",
            "call it with the same data and options, or start anew with --overwrite",
        )
    layers = {name: kept_tensor(path, state.get(name), getattr(fresh, name)) for name in TENSORS}
    layer = LinearClassifiers(**layers)
    return layer, TrainedClassifier(layer.weight[0], layer.bias[0], history, best, facts["lr"])


def kept_tensor(path: Path, found: object, fresh: torch.Tensor) -> torch.Tensor:
    """A tensor of a checkpoint like `fresh`, on its device."""
    like = isinstance(found, torch.Tensor) and found.layout == fresh.layout
    if not like or (found.shape, found.dtype) != (fresh.shape, fresh.dtype):  # type: ignore[attr-defined]
        raise TaskError(
            f"{str(path)!r} does not hold the classifier of this run",
            "start anew with --overwrite",
        )
    return found.clone().to(fresh.device)  # type: ignore[attr-defined,no-any-return]


def _interrupted(done: int, config: EvalLinearConfig, checkpoint: Path | None) -> Interrupted:
    if checkpoint is None or not done:
        return Interrupted("interrupted; nothing was kept")
    return Interrupted(
        f"interrupted after {done} of {counted(config.epochs, 'epoch')}, which are kept in"
        f" {str(checkpoint)!r}; the same command with --resume goes on"
    )
