"""`dino knn`."""

from typing import Any

from dino_cli.cli.app import app
from dino_cli.cli.display import Terminal
from dino_cli.cli.options import command
from dino_cli.config.knn import KnnConfig
from dino_cli.config.values import counted
from dino_cli.errors import UsageError


@command(app, "knn", KnnConfig)
def knn(config: KnnConfig, terminal: Terminal) -> dict[str, Any] | None:
    """Classify by the nearest neighbours in exported features.

    Without queries every image of the index is classified by the others. The model and
    preprocessing are those of the index. Where the queries' folders name classes of the index (also
    the folder that a given picture lies in), the share of right answers (top-1, top-5) is printed
    for every k.

    Example: dino knn new_photos/ --index feats.npy -k 20 -o predictions.csv

    Search by picture: dino knn cat.jpg --index feats.npy --neighbors 8 -o hits.html

    Near-duplicates: dino knn --index feats.npy --duplicates 0.95 -o duplicates.csv
    """
    if "index" not in terminal.given and not config.index[0].exists():
        raise UsageError(
            f"no index is named, and there is no {config.index[0]} here",
            "name the features to search, as in --index feats.npy",
        )
    from dino_cli.tasks.early import check_inputs

    if config.duplicates is None:  # which takes no queries, and says so
        check_inputs(config.queries)
    from dino_cli.tasks.knn.run import knn as run

    result = run(config, terminal, given=terminal.given)
    if config.duplicates is not None:
        _duplicates(result, terminal)
        return result
    if result["k"]:
        terminal.table(
            f"{result['queries']} queries, {result['index']} images in the index",
            ["k", "top-1 %", "top-5 %"],
            [[k, f"{a['top1']:.2f}", f"{a['top5']:.2f}"] for k, a in result["k"].items()],
        )
    if any("neighbors" in one for one in result.get("predictions", ())):
        terminal.table(
            "",
            ["path", "neighbor", "similarity"],
            [
                [str(p["path"]), str(n["path"]), f"{n['similarity']:.4f}"]
                for p in result["predictions"]
                for n in p["neighbors"]
            ],
            rest="-o neighbors.csv keeps all",
        )
    elif "predictions" in result:
        terminal.table(
            "",
            ["path", "predicted", "probability"],
            [
                [
                    str(p["path"]),
                    str(p["predicted"] or "unknown"),
                    "" if p["probability"] is None else f"{p['probability']:.3f}",
                ]
                for p in result["predictions"]
            ],
            rest="-o predictions.csv keeps all",
        )
    if "classes" in result:
        terminal.table(
            "Classes",
            ["class", "queries", "top-1 %", "most often taken for", "times"],
            [
                [name, str(c["queries"]), f"{c['top1']:.2f}", _taken_for(c), str(c["confused"])]
                for name, c in result["classes"].items()
            ],
            rest="--json prints all",
        )
    if "rejection" in result:
        terminal.line(_rejected(result["rejection"], result["queries"]))
    if "confusion" in result:
        terminal.line(f"{result['confusion']}: confusion matrix")
    if "output" in result:
        what = "queries" if result["output"].endswith(".html") else "predictions"
        terminal.line(f"{result['output']}: {result['queries']} {what}")
    return result


def _taken_for(one: dict[str, Any]) -> str:
    if not one["confused"]:
        return "-"
    return str(one["confused_with"] or "unknown")


def _rejected(found: dict[str, Any], queries: int) -> str:
    text = (
        f"{found['rejected']} of {queries} queries are of no known class"
        f" (nearest cosine below {found['min_similarity']:g})"
    )
    for key, words in (
        ("of_known", "of those whose class is in the index"),
        ("of_unknown", "of those whose class is not"),
        ("top1_of_accepted", "of the others right"),
    ):
        if found[key] is not None:
            text += f"; {found[key]:.2f} % {words}"
    return text


def _duplicates(result: dict[str, Any], terminal: Terminal) -> None:
    if "found" in result:
        terminal.table(
            "",
            ["group", "path", "duplicate", "similarity"],
            [
                [str(p["group"]), p["path"], p["duplicate"], f"{p['similarity']:.4f}"]
                for p in result["found"]
            ],
            rest="-o duplicates.csv keeps all",
            of=result["pairs"],
        )
    where = f"{result['output']}: " if "output" in result else ""
    terminal.line(
        f"{where}{counted(result['pairs'], 'pair')} in {counted(result['groups'], 'group')} among"
        f" {result['index']} images; {result['duplicates']} could go"
    )
