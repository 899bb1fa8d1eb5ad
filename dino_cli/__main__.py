"""The command `dino`; `python -m dino_cli` is the same."""

import os
import signal
import sys
import threading
import time
from contextlib import suppress
from types import FrameType

PATIENCE = 5.0  # seconds for processes and threads to end once the command has


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def main() -> None:
    """Run the command line on `sys.argv` and exit with its code (0, 1, 2 or 130).

    SIGTERM is treated as Ctrl-C, so that commands clean up; `dino train` saves at both.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:  # closed: `dino … >&-`, and some daemons' jobs
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115
    if os.environ.get("COLUMNS") == "0":  # an unknown width, which would leave no room for text
        del os.environ["COLUMNS"]
    from dino_cli.cli.app import app

    signal.signal(signal.SIGTERM, _interrupt)
    code: object = 1
    try:
        sys.exit(app(prog_name="dino", standalone_mode=True))
    except SystemExit as left:
        code = left.code or 0
        raise
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):  # a second Ctrl-C would print a traceback
            signal.signal(number, signal.SIG_IGN)
        _end_workers(code)


def _end_workers(code: object) -> None:
    """Leave nobody behind, and wait for nobody for ever.

    Processes that load ignore SIGTERM; one that waits for a dead one would be joined forever. What
    hangs in the system (a disk that does not answer) ends by no signal: it is left to the system.
    """
    processes = sys.modules.get("multiprocessing")
    workers = processes.active_children() if processes else []
    for worker in workers:
        worker.kill()
    threads = [t for t in threading.enumerate() if t is not threading.current_thread()]
    ends = time.monotonic() + PATIENCE
    for one in (*workers, *(thread for thread in threads if not thread.daemon)):
        one.join(max(0.0, ends - time.monotonic()))
        if one.is_alive():
            with suppress(OSError, ValueError):
                sys.stdout.flush()
            os._exit(code if isinstance(code, int) else 1)


if __name__ == "__main__":
    main()
