"""What can be refused before torch is imported, which takes seconds: missing files, outputs.

Whatever passes here is looked at again by the task itself, with the same sentences.
"""

import os
from collections.abc import Sequence
from pathlib import Path

from dino_cli.config.shared import ModelOptions
from dino_cli.data.listing.formats import what_else
from dino_cli.data.listing.globs import is_pattern
from dino_cli.data.listing.images import check_exists
from dino_cli.data.listing.remote_shards import is_url
from dino_cli.store.weights.hub import reach
from dino_cli.store.writing.targets import check_files

__all__ = ["check_inputs", "check_output", "reach_model"]


def check_inputs(names: Sequence[str]) -> None:
    """Raises `TaskError` for a file or folder that is not there."""
    for name in names:
        if name != "-" and not is_url(name) and not is_pattern(name):
            check_exists(name)


def check_output(output: Path, *, overwrite: bool) -> None:
    """Raises `TaskError` when the file cannot be put there."""
    check_files([output], overwrite=overwrite)


def reach_model(options: ModelOptions, inputs: Sequence[str] = ("-",)) -> None:
    """Raises `TaskError` when the model must be fetched and cannot be, within five seconds.

    An input that is missing, or whether any is, and one that is no picture the task tells first:
    then nothing is asked here.
    """
    here = inputs and all(
        name == "-" or (os.path.lexists(name) and not what_else(name)) for name in inputs
    )
    if here and options.weights is None and not options.offline:
        reach(options.model)
