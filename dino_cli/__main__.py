"""The command `dino`; `python -m dino_cli` is the same."""

import signal
import sys
from types import FrameType


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def main() -> None:
    """Run the command line on `sys.argv` and exit with its code (0, 1, 2 or 130).

    SIGTERM is treated as Ctrl-C, so that commands clean up; `dino train` saves at both.
    """
    from dino_cli.cli.app import app

    signal.signal(signal.SIGTERM, _interrupt)
    try:
        sys.exit(app(prog_name="dino", standalone_mode=True))
    finally:
        _end_workers()


def _end_workers() -> None:
    """Processes that load ignore SIGTERM; one that waits for a dead one would be joined forever."""
    processes = sys.modules.get("multiprocessing")
    for worker in processes.active_children() if processes else []:
        worker.kill()


if __name__ == "__main__":
    main()
