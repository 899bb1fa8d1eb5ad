"""`dino eval linear`: train or load a linear classifier on frozen features, and judge it."""

import shutil
from collections.abc import Mapping, Sequence, Set
from contextlib import suppress
from dataclasses import replace
from typing import Any

from dino_cli.config.embed import EmbedConfig
from dino_cli.config.eval_linear import EvalLinearConfig
from dino_cli.config.setting import flag_of
from dino_cli.config.values import difference
from dino_cli.data.decoding.pixel_limit import within_pixel_limit
from dino_cli.data.listing.image_list import ImageFile
from dino_cli.data.listing.images import find_images
from dino_cli.errors import TaskError
from dino_cli.progress import Reporter
from dino_cli.store.classifier import Classifier, read_classifier
from dino_cli.store.writing.targets import explain_errors
from dino_cli.tasks.embed.options import transform_of
from dino_cli.tasks.eval.linear.check import check
from dino_cli.tasks.eval.linear.examples import choose_examples, examples
from dino_cli.tasks.eval.linear.results import (
    FILES,
    PREDICTIONS,
    agreement,
    figures,
    judge,
    leave,
    logits_of,
    predict,
    tables,
)
from dino_cli.tasks.eval.linear.sets import (
    FeatureLayer,
    FeatureSource,
    FrozenFeatures,
    extract_features,
    labelled,
    with_labels,
)
from dino_cli.tasks.eval.linear.training import (
    CHECKPOINT,
    TrainedClassifier,
    train_fast,
    train_full,
)
from dino_cli.tasks.eval.report import report
from dino_cli.tasks.model import Model, open_model
from dino_cli.tasks.provenance import (
    NETWORK,
    model_facts,
    recorded_preprocessing,
    with_recorded_network,
)

__all__ = ["examples", "figures", "linear", "tables"]

MUCH_BETTER = 0.02  # top-1 by which the fast protocol shows that the rate is too small


@within_pixel_limit
def linear(
    config: EvalLinearConfig, reporter: Reporter, *, given: Set[str] = frozenset()
) -> dict[str, Any]:
    """Train on TRAIN unless a classifier is given, judge by VAL, predict for what is named.

    given: options that the person typed; a classifier's own network is used unless they name one.
    Returns {"top1", "top5" (from 5 classes on), "best_top1", "classes": names, "images",
    "per_class": {name: {"images", "top1"}}, "examples": [{"path", "label", "predicted",
    "probability" of the label}], "protocol", …} in fractions.
    """
    config = check(config, reporter)
    stored = read_classifier(config.classifier) if config.classifier else None
    train = labelled(config.train, reporter) if config.train else []
    val = labelled(config.val, reporter) if config.val else []
    queries = (
        find_images(config.predict, reporter=reporter, null=config.null, offline=config.offline)
        if config.predict
        else []
    )
    classes = _classes(config, stored, train, val)
    if config.val:
        val = with_labels(val, classes, config.val, reporter)
    seen = _open(config, stored, reporter, given)
    if stored is None:
        _reserve(config)
    try:
        return _work(config, stored, train, val, queries, classes, seen, reporter)
    except BaseException:
        _release(config)
        raise


def _classes(
    config: EvalLinearConfig,
    stored: Classifier | None,
    train: Sequence[ImageFile],
    val: Sequence[ImageFile],
) -> list[str]:
    """The classes in the order of the classifier's rows. Raises `TaskError` if they do not fit."""
    source = "train" if train else "val"
    names = sorted({file.label for file in (train or val)})
    if stored is None:
        if len(names) < 2:
            raise TaskError(
                f"{str(config.train)!r} has a single class, {names[0]!r}", "a classifier needs two"
            )
        return names
    if stored.facts:
        return list(stored.facts["classes"])
    rows = len(stored.bias)
    if not names:
        return [f"class {i}" for i in range(rows)]  # --predict with a file that names none
    if len(names) != rows:
        raise TaskError(
            f"the classifier {str(config.classifier)!r} has {rows} classes and names none, but"
            f" {str(getattr(config, source))!r} has {len(names)}",
            "give a TRAIN folder with all its classes beside VAL",
        )
    return names


def _open(
    config: EvalLinearConfig, stored: Classifier | None, reporter: Reporter, given: Set[str]
) -> FeatureSource:
    """The network, as the classifier's file tells; its preprocessing and the layer."""
    facts = stored.facts if stored else {}
    if facts:
        config = with_recorded_network(config, facts, given, "the classifier")
        if config.n_last_blocks is None and config.avgpool is None and facts["n_last_blocks"]:
            config = replace(config, n_last_blocks=facts["n_last_blocks"], avgpool=facts["avgpool"])
    model = open_model(config, reporter)
    if facts:
        _check_network(config, facts, model)
    recorded = recorded_preprocessing(facts)
    if recorded is not None:
        model.weights = replace(model.weights, preprocessing=recorded)
    wanted = EmbedConfig(resize=config.resize, crop=config.crop, exif=config.exif)
    p = transform_of(wanted, model)
    layer = FeatureLayer.of(config, model, stored.weight.shape[1] if stored else None)
    if stored:
        width = layer.width(model.backbone.dim, model.backbone.depth)
        if width != stored.weight.shape[1]:
            raise TaskError(
                f"the classifier {str(config.classifier)!r} takes {stored.weight.shape[1]}"
                f" features, but {model.weights.name} gives {width}",
                "set --n-last-blocks and --avgpool as when it was trained, or another model",
            )
    return FeatureSource(model, p, layer)


def _check_network(config: EvalLinearConfig, facts: Mapping[str, Any], model: Model) -> None:
    """Raises `TaskError` for another network than the one that made the classifier's features."""
    now = {**model.identity, **model_facts(config)}
    told = [key for key in NETWORK if key in facts or key == "weights_sha256"]
    different = difference(facts, now, told)
    if different is None:
        return
    name = f"the classifier {str(config.classifier)!r}"
    if different.key == "weights_sha256":
        raise TaskError(
            f"{name} was trained on features of {different.ours}, not of {different.theirs}",
            "leave out --model and --weights, or name those",
        )
    flag = flag_of(different.key)
    right = f"leave out {flag}" if different.ours is None else f"use {flag} {different.ours}"
    raise TaskError(f"{name} was trained on features made with {different}", right)


def _work(
    config: EvalLinearConfig,
    stored: Classifier | None,
    train: Sequence[ImageFile],
    val: Sequence[ImageFile],
    queries: Sequence[ImageFile],
    classes: list[str],
    seen: FeatureSource,
    reporter: Reporter,
) -> dict[str, Any]:
    judged = extract_features(val, seen, config, reporter, "validation images") if val else None
    result: dict[str, Any] = {"classes": classes}
    if stored is not None:
        device = seen.model.device
        trained = TrainedClassifier(stored.weight.to(device), stored.bias.to(device))
        result["protocol"] = "given classifier"
    else:
        assert judged is not None
        trained = _train(config, train, judged, classes, seen, result, reporter)
    if judged is not None:
        logits, labels = logits_of(trained, judged.features), judged.labels(classes)
        result |= judge(logits, labels, classes)
        result["best_top1"] = max(trained.best, result["top1"])
        result["examples"] = choose_examples(judged.files, logits, labels, classes)
    result |= {
        "n_last_blocks": seen.layer.blocks,
        "avgpool": seen.layer.avgpool,
        "model": seen.model.weights.name,
    }
    named = extract_features(queries, seen, config, reporter, "predicting") if queries else None
    if named is not None:
        result["predictions"] = predict(trained, named, classes)
    if config.output is not None:
        with report(config.output, FILES) as stage:
            pictures = examples(config, result, reporter) if judged is not None else []
            leave(stage, result, trained, classes, config, seen, pictures)
        result["output"] = str(config.output)
        if named is not None:
            result["predicted"] = str(config.output / PREDICTIONS)
            result["predicted_images"] = len(result.pop("predictions"))
        with suppress(FileNotFoundError):
            (config.output / CHECKPOINT).unlink()
    return result


def _train(
    config: EvalLinearConfig,
    train: Sequence[ImageFile],
    judged: FrozenFeatures,
    classes: list[str],
    seen: FeatureSource,
    result: dict[str, Any],
    reporter: Reporter,
) -> TrainedClassifier:
    """By the protocol that was asked for; notes in the result what was done."""
    checkpoint = config.output / CHECKPOINT if config.output else None
    result["protocol"] = "fast" if config.fast else "full"
    result["epochs"] = config.epochs
    if config.fast:
        trained = train_fast(
            extract_features(train, seen, config, reporter, "training images"),
            classes,
            config,
            reporter,
        )
        result["sweep"] = trained.sweep
    else:
        trained = train_full(train, classes, judged, seen, config, checkpoint, reporter)
        result["history"] = trained.history
    if config.compare:
        cached = extract_features(train, seen, config, reporter, "training images")
        fast = train_fast(cached, classes, config, reporter)
        scores = judge(logits_of(fast, judged.features), judged.labels(classes), classes)
        result["fast"] = {
            **{key: value for key, value in scores.items() if key != "per_class"},
            "lr": fast.lr,
            "sweep": fast.sweep,
            "agreement": agreement(trained, fast, judged),
        }
        better = float(result["fast"]["top1"])
        if better > trained.best + MUCH_BETTER and fast.lr > config.lr:
            reporter.remark(
                f"the fast protocol, whose sweep chose the rate {fast.lr:g}, named "
                f"{100 * better:.1f} % right, the full one at {config.lr:g} "
                f"{100 * trained.best:.1f} %: the paper's rate is for many more steps than "
                f"{len(train)} images give; try --lr {fast.lr:g}"
            )
    result["lr"] = trained.lr
    return trained


def _reserve(config: EvalLinearConfig) -> None:
    """The folder for the checkpoint; one of an earlier run is gone once a new one begins."""
    if config.output is None or config.fast:
        return
    with explain_errors(config.output, "choose another -o"):
        config.output.mkdir(exist_ok=True)
        if not config.resume:
            (config.output / CHECKPOINT).unlink(missing_ok=True)


def _release(config: EvalLinearConfig) -> None:
    """A failed run leaves no empty folder behind."""
    if config.output is not None and config.output.is_dir() and not any(config.output.iterdir()):
        shutil.rmtree(config.output, ignore_errors=True)
