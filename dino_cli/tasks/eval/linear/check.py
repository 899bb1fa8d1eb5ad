"""What `dino eval linear` was asked for, checked before long work."""

from dataclasses import replace
from pathlib import Path

from dino_cli.config.eval_linear import EvalLinearConfig
from dino_cli.config.setting import flag_of
from dino_cli.errors import TaskError, UsageError
from dino_cli.progress import Reporter
from dino_cli.store.writing.targets import check_free
from dino_cli.tasks.eval.linear.results import FILES
from dino_cli.tasks.eval.linear.training import CHECKPOINT
from dino_cli.tasks.eval.report import check_report

__all__ = ["check"]


def check(config: EvalLinearConfig, reporter: Reporter) -> EvalLinearConfig:
    """The config with VAL in its place, and without `resume` where nothing was begun.

    Raises `UsageError` and `TaskError` before long work.
    """
    if config.classifier is not None and config.val is None:
        config = replace(config, train=None, val=config.train)
    if config.classifier is None and (config.train is None or config.val is None):
        raise UsageError(
            "a linear classifier is trained on TRAIN and judged by VAL",
            "name both: dino eval linear train/ val/, or give --classifier FILE",
        )
    if config.classifier is not None and config.val is None and not config.predict:
        raise UsageError("nothing to classify", "name VAL, or --predict photos/")
    if config.classifier is not None and (config.fast or config.compare or config.resume):
        raise UsageError("--classifier trains nothing", "leave out --fast, --compare and --resume")
    if config.fast and config.compare:
        raise UsageError("--compare is the full protocol beside the fast one", "leave out --fast")
    for name in ("epochs", "batch_size"):
        if getattr(config, name) < 1:
            raise UsageError(
                f"{flag_of(name)} {getattr(config, name)} is not a positive number",
                f"the paper's is {getattr(EvalLinearConfig, name)}",
            )
    if not 0 < config.lr < float("inf"):
        raise UsageError(f"--lr {config.lr:g} is not a positive number", "the paper's is 0.001")
    if config.seed < 0:
        raise UsageError(f"--seed {config.seed} must not be negative", "use --seed 0")
    if config.resume:
        if config.output is None or config.fast:
            raise UsageError(
                "--resume goes on with a full training in the folder of -o", "name it with -o"
            )
        if (config.output / CHECKPOINT).is_file():
            return config
    check_report(config.output, FILES, overwrite=config.overwrite)
    if config.output is not None:
        _check_checkpoint(config.output, config)
    if config.resume:
        reporter.remark(f"{str(config.output)!r} has no {CHECKPOINT}: training from the beginning")
    return replace(config, resume=False)


def _check_checkpoint(output: Path, config: EvalLinearConfig) -> None:
    if (output / CHECKPOINT).exists() and not config.overwrite:
        raise TaskError(
            f"{str(output)!r} holds an unfinished training", "use --resume, or --overwrite"
        )
    check_free(output, (), overwrite=True)
