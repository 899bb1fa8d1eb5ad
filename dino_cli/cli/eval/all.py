"""`dino eval all`."""

from typing import Any

from dino_cli.cli.display import Terminal
from dino_cli.cli.eval import evaluations
from dino_cli.cli.eval.tables import show
from dino_cli.cli.options import command
from dino_cli.config.eval_all import EvalAllConfig


@command(evaluations, "all", EvalAllConfig)
def evaluate_all(config: EvalAllConfig, terminal: Terminal) -> dict[str, Any]:
    """Every evaluation that a file of data sets names, on one page.

    The file has a section per evaluation with the options of its command, such as
    [knn] train = "imagenet/train" val = "imagenet/val". The page, one file without network, holds
    every table and the published figures beside the measured ones.

    Example: dino eval all runs/first --config datasets.toml -o report.html
    """
    from dino_cli.tasks.eval.all import evaluate_all as run
    from dino_cli.tasks.eval.all import incomplete

    result, done = run(config, terminal)
    for one in done:
        if one.error:
            continue
        terminal.line(f"\n{one.planned.key}")
        show(terminal, one.tables, result["output"])
    terminal.line(f"\n{result['output']}: {len(done)} evaluations")
    if error := incomplete(result, done):
        raise error
    return result
