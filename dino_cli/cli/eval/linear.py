"""`dino eval linear`."""

from typing import Any

from dino_cli.cli.display import Terminal
from dino_cli.cli.eval import evaluations
from dino_cli.cli.eval.tables import show_report
from dino_cli.cli.options import command
from dino_cli.config.eval_linear import EvalLinearConfig


@command(evaluations, "linear", EvalLinearConfig)
def linear(config: EvalLinearConfig, terminal: Terminal) -> dict[str, Any]:
    """Accuracy of a linear classifier on frozen features.

    Trains one by the paper's protocol (SGD, 100 epochs of random crops), or with --fast on
    features that are computed once. With -o it leaves classifier.safetensors, which --classifier
    uses again, on VAL or to name the classes of other pictures with --predict. A stopped training
    goes on with --resume.

    Example: dino eval linear imagenet/train imagenet/val --fast -o linear
    """
    from dino_cli.tasks.eval.linear.run import linear as run
    from dino_cli.tasks.eval.linear.run import tables

    result = run(config, terminal, given=terminal.given)
    show_report(terminal, tables(result), result)
    if "predicted" in result:
        terminal.line(f"{result['predicted']}: {result['predicted_images']} predictions")
    return result
