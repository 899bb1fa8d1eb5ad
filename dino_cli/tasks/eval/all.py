"""`dino eval all`: every evaluation that a file of data sets names, on one page."""

from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, fields, replace
from difflib import get_close_matches
from importlib import import_module
from pathlib import Path
from typing import Any, get_type_hints

from dino_cli import __version__
from dino_cli.config.eval_all import EvalAllConfig
from dino_cli.config.eval_copies import EvalCopiesConfig
from dino_cli.config.eval_knn import EvalKnnConfig
from dino_cli.config.eval_linear import EvalLinearConfig
from dino_cli.config.eval_retrieval import EvalRetrievalConfig
from dino_cli.config.eval_segmentation import EvalSegmentationConfig
from dino_cli.config.eval_video import EvalVideoConfig
from dino_cli.config.shared import ModelOptions
from dino_cli.config.values import as_type, json_text, read_toml, shown
from dino_cli.errors import DinoError, Interrupted, TaskError, UsageError
from dino_cli.progress import Reporter
from dino_cli.store.pages import write_page
from dino_cli.store.writing.atomic import atomic_write
from dino_cli.store.writing.targets import check_files, explain_errors
from dino_cli.tasks.eval.published import PUBLISHED
from dino_cli.tasks.eval.report import Example, Table, section

__all__ = ["EVALUATIONS", "EvaluationResult", "evaluate_all", "incomplete", "plan"]

# In the order of the page. Each name is also that of the function in `tasks/eval/<name>.py`.
EVALUATIONS: Mapping[str, type] = {
    "knn": EvalKnnConfig,
    "linear": EvalLinearConfig,
    "segmentation": EvalSegmentationConfig,
    "video": EvalVideoConfig,
    "retrieval": EvalRetrievalConfig,
    "copies": EvalCopiesConfig,
}
OURS = frozenset({"output", "overwrite", "resume", "predict"})  # no data's business


@dataclass(frozen=True)
class PlannedEvaluation:
    """An evaluation to do. label: which data set of several, else empty."""

    name: str
    label: str
    config: Any

    @property
    def key(self) -> str:
        return f"{self.name}.{self.label}" if self.label else self.name


@dataclass(frozen=True)
class EvaluationResult:
    """What came of it: the result with its figures and tables, or the sentence why not."""

    planned: PlannedEvaluation
    result: Mapping[str, Any]
    figures: Mapping[str, float]
    tables: Sequence[Table]
    examples: Sequence[Example] = ()
    error: str = ""

    def section(self) -> dict[str, Any]:
        """As the page shows it."""
        name, label = self.planned.name, self.planned.label
        part = section(name, self.result, self.figures, self.tables, self.examples, label=label)
        return {**part, "error": self.error}


def evaluate_all(
    config: EvalAllConfig, reporter: Reporter
) -> tuple[dict[str, Any], list[EvaluationResult]]:
    """Do what the file names, one after the other, and write the page.

    An evaluation that fails stands on the page with its reason, and the others go on; see
    `incomplete`. Returns ({"output", "results": {section: result or {"error"}}}, what was
    measured). Raises `TaskError` when all of them fail.
    """
    config = _with_run(config)
    if config.output.suffix != ".html":
        raise UsageError(f"{str(config.output)!r} is not an .html file", "use -o report.html")
    check_files([config.output, config.output.with_suffix(".json")], overwrite=config.overwrite)
    planned = plan(config)
    done: list[EvaluationResult] = []
    try:
        for one in planned:
            reporter.remark(f"evaluation {len(done) + 1} of {len(planned)}: {one.key}")
            done.append(_measure(one, reporter))
    except (KeyboardInterrupt, Interrupted):
        if all(one.error for one in done):
            raise Interrupted("interrupted; nothing was kept") from None
        missing = [_failed(one, "interrupted before it began") for one in planned[len(done) :]]
        _write(config, [*done, *missing])
        raise Interrupted(f"interrupted; what was measured is in {str(config.output)!r}") from None
    failed = [one for one in done if one.error]
    if len(failed) == len(done):
        raise TaskError(f"no evaluation succeeded; {failed[0].planned.key}: {failed[0].error}")
    _write(config, done)
    return {"output": str(config.output), "results": _results(done)}, done


def incomplete(result: dict[str, Any], done: Sequence[EvaluationResult]) -> TaskError | None:
    """The error that the command ends with after it has shown the rest, if one has failed."""
    failed = [one for one in done if one.error]
    if not failed:
        return None
    return TaskError(
        f"{len(failed)} of {len(done)} evaluations failed, the first of them"
        f" {failed[0].planned.key}: {failed[0].error}",
        f"the others are in {result['output']!r}",
        result=result,
    )


def _results(done: Sequence[EvaluationResult]) -> dict[str, Any]:
    return {
        one.planned.key: {"error": one.error} if one.error else dict(one.result) for one in done
    }


def _with_run(config: EvalAllConfig) -> EvalAllConfig:
    if config.run is None:
        return config
    path = Path(config.run)
    if path.exists():
        return replace(config, weights=path)
    if path.suffix or config.run.count("/") > 1:
        raise TaskError(f"{config.run!r} does not exist", "name a run folder, weights or a model")
    return replace(config, model=config.run, weights=None)


def plan(config: EvalAllConfig) -> list[PlannedEvaluation]:
    """What the file asks for, in the order of the page.

    Raises `UsageError` for a section or option that does not exist, or lacks its data, and
    `TaskError` for data that are not there: all of it before anything is computed.
    """
    content = read_toml(config.config)
    for name, values in content.items():
        if name not in EVALUATIONS or not isinstance(values, dict):
            close = get_close_matches(name, EVALUATIONS, n=1)
            raise UsageError(
                f"{config.config} has {shown(name)}, which is not an evaluation",
                f"did you mean [{close[0]}]?" if close else f"use {', '.join(EVALUATIONS)}",
            )
    planned = []
    for name in EVALUATIONS:
        values = content.get(name)
        if values is None:
            continue
        several = values and all(isinstance(value, dict) for value in values.values())
        for label, one in values.items() if several else [("", values)]:
            planned.append(PlannedEvaluation(name, label, _options(name, label, one, config)))
    if not planned:
        raise UsageError(f"{config.config} names no data", "add a section such as [knn]")
    return planned


def _options(name: str, label: str, values: Mapping[str, Any], config: EvalAllConfig) -> Any:
    kind, source = EVALUATIONS[name], config.config
    where, command = f"[{name}.{label}]" if label else f"[{name}]", f"dino eval {name}"
    hints = get_type_hints(kind)
    known = {f.name for f in fields(kind) if "help" in f.metadata} - OURS
    shared = {f.name for f in fields(ModelOptions)}
    made: dict[str, Any] = {
        field: getattr(config, field)
        for field in shared | {"device", "precision", "workers"}
        if field in hints
    }
    for key, value in values.items():
        field = key.replace("-", "_")
        if field not in known - shared:
            close = get_close_matches(field, sorted(known - shared), n=1)
            raise UsageError(
                f"{source} sets {shown(key)} in {where}, which is not an option of {command} there",
                f"did you mean {close[0]!r}?" if close else f"see {command} --help",
            )
        made[field] = as_type(value, hints[field], key, source, command)
        if isinstance(made[field], Path):
            made[field] = _data(source, where, made[field])
    needed = [f.name for f in fields(kind) if f.default is MISSING and f.name not in made]
    if name == "linear":  # given weights are not trained
        needed += [n for n in ("train", "val") if n not in made]
        needed = [n for n in needed if n != "train" or "classifier" not in made]
    if needed:
        raise UsageError(f"{source} lacks {needed[0]!r} in {where}", f"see {command} --help")
    return kind(**made)


def _data(source: Path, where: str, path: Path) -> Path:
    found = source.parent / path
    if not found.exists():
        raise TaskError(
            f"{str(found)!r}, which {source} names in {where}, does not exist",
            "paths there are relative to the file",
        )
    return found


def _measure(one: PlannedEvaluation, reporter: Reporter) -> EvaluationResult:
    module = import_module(f"dino_cli.tasks.eval.{one.name}.run")
    # The network is the command's, not the one that a classifier's file names.
    given = {"given": frozenset({"model", "weights"})} if one.name == "linear" else {}
    try:
        result = getattr(module, one.name)(one.config, reporter, **given)
        shown = module.examples(one.config, result, reporter) if "examples" in result else ()
    except Interrupted:
        raise
    except DinoError as error:
        reporter.remark(f"{one.key} failed: {error}")
        return _failed(one, str(error))
    return EvaluationResult(one, result, module.figures(result), module.tables(result), shown)


def _failed(one: PlannedEvaluation, why: str) -> EvaluationResult:
    return EvaluationResult(one, {}, {}, (), error=why)


def _write(config: EvalAllConfig, done: Sequence[EvaluationResult]) -> None:
    """The page and the .json beside it."""
    model = next((str(m.result["model"]) for m in done if m.result.get("model")), "the model")
    values = {
        "title": f"Evaluation of {model}",
        "lead": "The paper's evaluations, with the figures that were published beside them.",
        "facts": [
            {"value": value, "text": f"{column}, {PUBLISHED[m.planned.name].title}"}
            for m in done
            for column, value in list(m.figures.items())[:1]
        ],
        "version": __version__,
        "sections": [one.section() for one in done],
    }
    beside = config.output.with_suffix(".json")
    new = [path for path in (beside, config.output) if not path.exists()]
    try:
        with explain_errors(config.output):
            with atomic_write(beside) as temporary:
                temporary.write_text(json_text(_results(done)) + "\n", encoding="utf-8")
            write_page(config.output, "evaluation", values)
    except BaseException:
        for path in new:
            path.unlink(missing_ok=True)
        raise
