"""`dino eval segmentation`."""

from typing import Any

from dino_cli.cli.display import Terminal
from dino_cli.cli.eval import evaluations
from dino_cli.cli.eval.tables import show_report
from dino_cli.cli.options import command
from dino_cli.config.eval_segmentation import EvalSegmentationConfig


@command(evaluations, "segmentation", EvalSegmentationConfig)
def segmentation(config: EvalSegmentationConfig, terminal: Terminal) -> dict[str, Any]:
    """Overlap of masks from attention with the objects of label maps.

    Judges the best head for each object, as the paper, and what dino attention makes without truth:
    --head best and mean, --masks seeded, tokens and cut, each also with --refine guided. Beside
    them a centred box, the whole image and the same network untrained.

    Example: dino eval segmentation voc/JPEGImages voc/SegmentationObject --names voc/val.txt
    """
    from dino_cli.tasks.eval.segmentation.run import segmentation as run
    from dino_cli.tasks.eval.segmentation.run import tables

    result = run(config, terminal)
    show_report(terminal, tables(result), result)
    return result
