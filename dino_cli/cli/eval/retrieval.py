"""`dino eval retrieval`."""

from typing import Any

from dino_cli.cli.display import Terminal
from dino_cli.cli.eval import evaluations
from dino_cli.cli.eval.tables import show_report
from dino_cli.cli.options import command
from dino_cli.config.eval_retrieval import EvalRetrievalConfig


@command(evaluations, "retrieval", EvalRetrievalConfig)
def retrieval(config: EvalRetrievalConfig, terminal: Terminal) -> dict[str, Any]:
    """Mean average precision of image retrieval.

    ROOT is revisited Oxford or Paris: jpg/ and, beside it, gnd_*.pkl as published (nothing in it
    is executed) or the same as gnd_*.json. In any other folder with classes every image asks for
    the others of its class.

    Example: dino eval retrieval roxford5k --model dino_vits16
    """
    from dino_cli.tasks.eval.retrieval.run import retrieval as run
    from dino_cli.tasks.eval.retrieval.run import tables

    result = run(config, terminal)
    show_report(terminal, tables(result), result)
    return result
