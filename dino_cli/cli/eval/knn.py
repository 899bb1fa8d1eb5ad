"""`dino eval knn`."""

from typing import Any

from dino_cli.cli.display import Terminal
from dino_cli.cli.eval import evaluations
from dino_cli.cli.eval.tables import show_report
from dino_cli.cli.options import command
from dino_cli.config.eval_knn import EvalKnnConfig


@command(evaluations, "knn", EvalKnnConfig)
def knn(config: EvalKnnConfig, terminal: Terminal) -> dict[str, Any]:
    """Accuracy of weighted k-NN, for several k and temperatures.

    Embeds both sets and classifies VAL by TRAIN, as `dino embed` and `dino knn` do it; figures are
    percent. With -o the features stay in the report's folder.

    Example: dino eval knn imagenet/train imagenet/val --model dino_vits16 -o knn
    """
    from dino_cli.tasks.eval.knn.run import knn as run
    from dino_cli.tasks.eval.knn.run import tables

    result = run(config, terminal)
    show_report(terminal, tables(result), result)
    return result
