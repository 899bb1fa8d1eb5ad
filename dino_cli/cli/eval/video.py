"""`dino eval video`."""

from typing import Any

from dino_cli.cli.display import Terminal
from dino_cli.cli.eval import evaluations
from dino_cli.cli.eval.tables import show_report
from dino_cli.cli.options import command
from dino_cli.config.eval_video import EvalVideoConfig


@command(evaluations, "video", EvalVideoConfig)
def video(config: EvalVideoConfig, terminal: Terminal) -> dict[str, Any]:
    """Carry a video's first mask on, and measure it as DAVIS-2017.

    Each patch takes its label from the most similar patches of the first and the last frames.
    Measured are the overlap of regions (J) and the fit of contours (F), beside those of the first
    mask, copied. With -o the masks stay, as palette PNGs that the official evaluator reads.

    Example: dino eval video davis --model dino_vits16 -o masks
    """
    from dino_cli.tasks.eval.video.run import tables
    from dino_cli.tasks.eval.video.run import video as run

    result = run(config, terminal)
    show_report(terminal, tables(result), result)
    return result
