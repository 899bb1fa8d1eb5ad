"""The options of `dino eval all`."""

from dataclasses import dataclass
from pathlib import Path

from dino_cli.config.setting import setting
from dino_cli.config.shared import EvalNetworkOptions

__all__ = ["EvalAllConfig"]


@dataclass(frozen=True, kw_only=True)
class EvalAllConfig(EvalNetworkOptions):
    """`dino eval all`: every evaluation that a file of data sets names, on one page."""

    run: str | None = setting(
        None,
        "A run folder of `dino train`, a file of weights or a model's name;"
        " or use --model and --weights.",
        argument=True,
        metavar="RUN",
    )
    config: Path = setting(
        Path("datasets.toml"),
        "Data sets: a section per evaluation, [knn], [linear], [segmentation], [video],"
        " [retrieval], [copies] or [retrieval.oxford], with the options of its command."
        " Paths are relative to the file.",
        metavar="FILE",
    )
    output: Path = setting(
        Path("report.html"), "The page; the figures go beside it as .json.", flag="--output,-o"
    )
    overwrite: bool = setting(False, "Replace an existing page.")
    batch_size: int = 0  # no option: each evaluation has its own, which a section can set
    compile: bool = False  # likewise
