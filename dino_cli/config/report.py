"""The options of `dino report`."""

from dataclasses import dataclass
from pathlib import Path

from dino_cli.config.setting import setting

__all__ = ["ReportConfig"]


@dataclass(frozen=True, kw_only=True)
class ReportConfig:
    """`dino report`: one page about a run of `dino train`."""

    run: Path = setting(
        help="Folder of a run, finished or still going on.", argument=True, metavar="RUN"
    )
    output: Path | None = setting(None, "The page; default RUN/report.html.", flag="--output,-o")
    overwrite: bool = setting(False, "Replace an existing page.")
