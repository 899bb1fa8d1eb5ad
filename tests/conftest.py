import functools
import gc
import os
import signal
from typing import TYPE_CHECKING

import pytest
import typer.testing

if TYPE_CHECKING:  # torch with it, which the process that only hands out tests need not wait for
    from golden_files import Golden

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # no test may ask the network by accident
os.environ.setdefault("OMP_NUM_THREADS", "1")  # of processes side by side, which share the cores

# Background jobs of a shell ignore Ctrl-C, and so would the commands that tests interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)

# Typer's runner builds all commands at each call, which takes longer than many a command.
typer.testing._get_command = functools.cache(typer.testing._get_command)


@pytest.fixture(autouse=True, scope="session")
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Listings and fetched shards of the tests stay out of the user's cache."""
    os.environ["DINO_CACHE"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session")
def golden() -> "Golden":
    from golden_files import Golden, golden_folder

    return Golden(golden_folder())


SIMULATED = int(os.environ.get("DINO_SIMULATED_CUDA", "0"))


def pytest_configure() -> None:
    if SIMULATED:
        import simulated_cuda

        simulated_cuda.start(SIMULATED)


def pytest_collection_finish() -> None:
    """What was imported stays: the collector of garbage need not look through it again and again,
    which takes half a second each time."""
    gc.collect()
    gc.freeze()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """`-m` on the command line replaces the one that leaves tests of GPUs out."""
    marked = [item for item in items if item.get_closest_marker("gpu")]
    if marked:
        import torch

        for item in marked:
            if not torch.cuda.is_available():
                item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))
            elif SIMULATED and "compile" in item.name:
                item.add_marker(pytest.mark.skip(reason="torch.compile knows what a CPU is"))
