"""`dino eval knn`: the paper's k-NN table, by the code of `dino embed` and `dino knn`."""

from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from dino_cli.config.embed import EmbedConfig
from dino_cli.config.eval_knn import EvalKnnConfig
from dino_cli.config.knn import KnnConfig
from dino_cli.data.decoding.pixel_limit import within_pixel_limit
from dino_cli.data.listing.images import find_images
from dino_cli.errors import Interrupted, TaskError
from dino_cli.progress import Reporter
from dino_cli.runtime import choose_device
from dino_cli.store.embeddings.reading import embeddings_paths, is_feature_file
from dino_cli.store.writing.tables import skipped_path
from dino_cli.tasks.embed.run import embed
from dino_cli.tasks.eval.knn.examples import ExampleChooser, examples
from dino_cli.tasks.eval.report import Table, check_report, report, write_report
from dino_cli.tasks.knn.bank import open_bank
from dino_cli.tasks.knn.check import check_votes
from dino_cli.tasks.knn.known import tell_of_known
from dino_cli.tasks.knn.queries import open_queries
from dino_cli.tasks.knn.score import AccuracyCounter
from dino_cli.tasks.knn.search import clamp, search

__all__ = ["examples", "figures", "knn", "tables"]

SETS = ("train", "val")
CLASSES = "put the pictures of each class into a folder of its name"


@within_pixel_limit
def knn(config: EvalKnnConfig, reporter: Reporter) -> dict[str, Any]:
    """Classify the validation images by the training images, for every k and temperature.

    Returns what `dino knn` does, for the first temperature: `{"k": {"20": {"top1": percent,
    "top5": percent}}, "queries": N, "index": M}`, with `temperature`, `temperatures`: {T: as "k"}
    `best`: {k, temperature, top1} and `examples`: {path, label, share of the votes for it, nearest:
    [{path, label}]}.
    """
    checked = [KnnConfig(k=config.k, temperature=t) for t in config.temperature]
    for one in checked:
        check_votes(one)
    names = [path.name for name in SETS for path in _files(Path(f"{name}.npy"))]
    check_report(config.output, names, overwrite=config.overwrite)
    _check_classes(config)
    output = config.output
    with report(output, names) if output is not None else TemporaryDirectory() as given:
        folder = Path(given)
        index, queries = (
            _features(getattr(config, name), folder / f"{name}.npy", config, reporter)
            for name in SETS
        )
        result = _classify(
            replace(checked[0], index=(index,), queries=(str(queries),)), config, reporter
        )
        if output is not None:
            shown = examples(config, result, reporter)
            write_report(folder, "knn", result, figures(result), tables(result), shown)
            result = {**result, "output": str(output)}
    return result


def _check_classes(config: EvalKnnConfig) -> None:
    """Raises `TaskError` for folders without common classes, before they are embedded."""
    found = [
        {file.label for file in find_images([str(source)]) if file.label}
        for source in (config.train, config.val)
        if not is_feature_file(source.name)
    ]
    for source, labels in zip((config.train, config.val), found, strict=False):
        if len(found) == 2 and not labels:
            raise TaskError(f"the images of {str(source)!r} have no classes", CLASSES)
    if len(found) == 2 and not found[0] & found[1]:
        raise _no_common(config)


def _no_common(config: EvalKnnConfig) -> TaskError:
    return TaskError(
        f"no label of {str(config.val)!r} is a class of {str(config.train)!r}",
        "give folders whose class folders have the same names",
    )


def _files(output: Path) -> tuple[Path, ...]:
    return (*embeddings_paths(output), skipped_path(output))


def _features(source: Path, output: Path, config: EvalKnnConfig, reporter: Reporter) -> Path:
    """Where the features of the images are; made at `output` unless they are given."""
    if is_feature_file(source.name):
        return source
    own = {f.name for f in fields(EvalKnnConfig)} & {f.name for f in fields(EmbedConfig)}
    options = {name: getattr(config, name) for name in own - {"output", "overwrite"}}
    try:
        made = embed(EmbedConfig(paths=(str(source),), output=output, **options), reporter)
    except Interrupted:  # the folder goes, and there is no --resume here
        raise Interrupted("interrupted; nothing was kept") from None
    if made["skipped"]:
        reporter.remark(f"{made['skipped']} unreadable pictures of {str(source)!r} are left out")
    return output


def _classify(options: KnnConfig, config: EvalKnnConfig, reporter: Reporter) -> dict[str, Any]:
    bank = open_bank(options.index, reporter)
    ks = clamp(config.k, int(bank.voting.sum()), False, reporter)
    queries = open_queries(options, bank.index, reporter, frozenset())
    if not any(label in bank.numbers for label in queries.labels):
        raise _no_common(config)
    chooser = ExampleChooser(bank, ks[0], config.temperature[0])
    tell_of_known(queries, bank, reporter)
    scores = {t: AccuracyCounter(bank, ks, t) for t in dict.fromkeys(config.temperature)}
    for found in search(queries, bank, max(ks), choose_device(config.device), reporter):
        for score in scores.values():
            score.add(found)
        chooser.add(found)
    first = scores[config.temperature[0]]
    if first.unknown:
        reporter.remark(
            f"{first.unknown} of the {len(queries.paths)} validation images have labels that are"
            " no classes of the training images; the accuracies leave them out"
        )
    by_temperature = {f"{t:g}": score.percent() for t, score in scores.items()}
    top1, k, t = max(
        ((at["top1"], k, t) for t, row in by_temperature.items() for k, at in row.items()),
        key=lambda one: one[0],  # of equals the one that was asked for first
    )
    return {
        "k": first.percent(),
        "queries": len(queries.paths),
        "index": int(bank.voting.sum()),
        "model": bank.index.metadata.get("model", ""),
        "temperature": config.temperature[0],
        "temperatures": by_temperature,
        "best": {"k": int(k), "temperature": float(t), "top1": top1},
        "examples": chooser.chosen(),
    }


def figures(result: Mapping[str, Any]) -> dict[str, float]:
    """The best k at the headline's temperature, as the paper's table."""
    return {"top-1": max(at["top1"] for at in result["k"].values())}


def tables(result: Mapping[str, Any]) -> list[Table]:
    """Top-1 and top-5 by k, and top-1 by k and temperature where several were asked for."""
    ks = list(result["k"])
    shown = [
        Table(
            title=f"{result['queries']} images classified by {result['index']},"
            f" temperature {result['temperature']:g}",
            columns=("k", "top-1 %", "top-5 %"),
            rows=[[k, f"{a['top1']:.2f}", f"{a['top5']:.2f}"] for k, a in result["k"].items()],
        )
    ]
    if len(result["temperatures"]) > 1:
        shown.append(
            Table(
                title="Top-1 % by temperature",
                columns=("temperature", *(f"k = {k}" for k in ks)),
                rows=[
                    [t, *(f"{row[k]['top1']:.2f}" for k in ks)]
                    for t, row in sorted(
                        result["temperatures"].items(), key=lambda one: float(one[0])
                    )
                ],
            )
        )
    return shown
