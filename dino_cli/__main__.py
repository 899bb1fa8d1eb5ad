"""The command `dino`; `python -m dino_cli` is the same."""

import sys


def main() -> None:
    """Run the command line on `sys.argv` and exit with its code (0, 1, 2 or 130)."""
    from dino_cli.cli.app import app

    sys.exit(app(prog_name="dino", standalone_mode=True))


if __name__ == "__main__":
    main()
