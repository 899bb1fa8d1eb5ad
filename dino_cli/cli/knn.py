"""`dino knn`."""

from typing import Any

from dino_cli.cli.app import app
from dino_cli.cli.display import Terminal
from dino_cli.cli.options import command
from dino_cli.config.knn import KnnConfig


@command(app, "knn", KnnConfig)
def knn(config: KnnConfig, terminal: Terminal) -> dict[str, Any] | None:
    """Classify by the nearest neighbours in exported features.

    Without queries every image of the index is classified by the others. The model and
    preprocessing are those of the index. Where the queries' folders name classes of the index, the
    share of right answers (top-1, top-5) is printed for every k.

    Example: dino knn new_photos/ --index feats.npy -k 20 -o predictions.csv
    """
    from dino_cli.tasks.knn.run import knn as run

    result = run(config, terminal, given=terminal.given)
    if result["k"]:
        terminal.table(
            f"{result['queries']} queries, {result['index']} images in the index",
            ["k", "top-1 %", "top-5 %"],
            [[k, f"{a['top1']:.2f}", f"{a['top5']:.2f}"] for k, a in result["k"].items()],
        )
    elif "predictions" in result:
        terminal.table(
            "",
            ["path", "predicted", "probability"],
            [
                [str(p["path"]), str(p["predicted"]), f"{p['probability']:.3f}"]
                for p in result["predictions"]
            ],
        )
    if "output" in result:
        terminal.line(f"{result['output']}: {result['queries']} predictions")
    return result
