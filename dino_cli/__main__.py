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
    sys.exit(app(prog_name="dino", standalone_mode=True))


if __name__ == "__main__":
    main()
