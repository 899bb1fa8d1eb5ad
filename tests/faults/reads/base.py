"""What a reader is: a function that makes good files, and says what reads them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from small_run import small_config
from typer.testing import CliRunner

from dino_cli.cli.app import app
from dino_cli.core.network.architecture import VitArchitecture
from dino_cli.core.network.vit import build_vit
from dino_cli.store.weights.load import load

HEAD64 = VitArchitecture(width=64, depth=1, heads=1, patch_size=16, grid=(4, 4))
TRAIN = small_config(
    depth=1, out_dim=32, head_hidden=32, global_size=16, local_size=8, local_crops_number=1, watch=2
)

# Returns the files that may be damaged, and what reads them.
Reader = Callable[[Path], tuple[list[Path], Callable[[], Any]]]
READERS: dict[str, Reader] = {}


def reader(make: Reader) -> Reader:
    READERS[make.__name__] = make
    return make


def command(*words: object) -> None:
    """`dino …` in this process; raises what reaches a person as a traceback."""
    result = CliRunner().invoke(app, [str(word) for word in words])
    error = result.exception
    if error is not None and not isinstance(error, SystemExit):
        raise error
    if result.exit_code:
        said = [line for line in result.stderr.splitlines() if line.startswith("dino: error: ")]
        usage = result.exit_code == 2 and "─ Error ─" in result.stderr  # told by Typer, in a box
        assert len(said) == 1 or usage, result.output
        raise Told(said[0] if said else result.stderr)


class Killed(Exception):
    """Stands for a SIGKILL at that place."""


class Told(Exception):
    """One sentence on stderr and an exit code."""


def tensors() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return build_vit(HEAD64).state_dict()


def loading(path: Path) -> Callable[[], Any]:
    """What loads weights from there."""
    return lambda: load(model="", weights=path)
