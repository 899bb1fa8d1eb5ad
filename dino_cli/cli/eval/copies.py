"""`dino eval copies`."""

from typing import Any

from dino_cli.cli.display import Terminal
from dino_cli.cli.eval import evaluations
from dino_cli.cli.eval.tables import show_report
from dino_cli.cli.options import command
from dino_cli.config.eval_copies import EvalCopiesConfig


@command(evaluations, "copies", EvalCopiesConfig)
def copies(config: EvalCopiesConfig, terminal: Terminal) -> dict[str, Any]:
    """Mean average precision of copy detection.

    Every copy asks for its original among the originals and the distractors, by the class token
    and the generalised mean of the patches, whitened if there are images to learn that on.

    Example: dino eval copies copydays --distractors photos --whitening others
    """
    from dino_cli.tasks.eval.copies.run import copies as run
    from dino_cli.tasks.eval.copies.run import tables

    result = run(config, terminal)
    show_report(terminal, tables(result), result)
    return result
