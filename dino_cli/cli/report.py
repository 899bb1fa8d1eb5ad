"""`dino report`."""

from typing import Any

from dino_cli.cli.app import app
from dino_cli.cli.display import Terminal
from dino_cli.cli.options import command
from dino_cli.config.report import ReportConfig


@command(app, "report", ReportConfig)
def report(config: ReportConfig, terminal: Terminal) -> dict[str, Any]:
    """Make one page about a training run: curves, health, speed, and its attention over the epochs.

    `dino report runs/first -o report.html`; while the run goes on too.
    """
    from dino_cli.tasks.report import report as run

    result = run(config, terminal)
    terminal.line(f"{result['page']}: {result['steps']} of {result['of']} steps")
    return result
