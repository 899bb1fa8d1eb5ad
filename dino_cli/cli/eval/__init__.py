"""`dino eval …`: the paper's evaluations, one module per command."""

import typer

__all__ = ["evaluations"]

evaluations = typer.Typer(
    no_args_is_help=True, help="The paper's evaluations, on your data or the benchmarks' folders."
)

# Each module registers its command on `evaluations`; they import no torch until the command runs.
from dino_cli.cli.eval import all, copies, knn, linear, retrieval, segmentation, video  # noqa: E402, F401
