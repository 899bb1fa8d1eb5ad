"""`dino bench …`: how fast, against the original's way and what the machine can do."""

from typing import Any

import typer

from dino_cli.cli.app import app
from dino_cli.cli.display import Terminal
from dino_cli.cli.options import command
from dino_cli.config.bench import (
    BenchAttentionConfig,
    BenchEmbedConfig,
    BenchKnnConfig,
    BenchStepConfig,
    BenchTrainConfig,
    BenchViewsConfig,
)
from dino_cli.config.values import counted

__all__ = ["bench"]

bench = typer.Typer(
    no_args_is_help=True,
    help="How fast: ours and the original's way in turn, and the share of the machine's limit.",
)
app.add_typer(bench, name="bench")


@command(bench, "views", BenchViewsConfig)
def views(config: BenchViewsConfig, terminal: Terminal) -> dict[str, Any]:
    """Ten training views of a decoded photo, to normalised tensors.

    The original's way is torchvision's transforms on PIL images. Ours is one core's, and where the
    device is not a CPU also the device's, in batches.

    Example: dino bench views
    """
    from dino_cli.tasks.bench.views import bench_views

    return _shown(bench_views(config, terminal), terminal)


@command(bench, "step", BenchStepConfig)
def step(config: BenchStepConfig, terminal: Terminal) -> dict[str, Any]:
    """One training step: student, teacher, loss, backward, clipping, AdamW, teacher's average.

    Example: dino bench step --arch vit_small --batch-size 64 --out-dim 65536 --device cuda
    """
    from dino_cli.tasks.bench.step import bench_step

    result = _shown(bench_step(config, terminal), terminal)
    _tell_memory(result, terminal)
    return result


@command(bench, "train", BenchTrainConfig)
def train(config: BenchTrainConfig, terminal: Terminal) -> dict[str, Any]:
    """Whole training from JPEG files, once it runs evenly: `dino train` and the original's loop.

    Example: dino bench train --arch vit_small --device cuda
    """
    from dino_cli.tasks.bench.train import bench_train

    return _shown(bench_train(config, terminal), terminal)


@command(bench, "embed", BenchEmbedConfig)
def embed(config: BenchEmbedConfig, terminal: Terminal) -> dict[str, Any]:
    """Features of JPEG files, which are drawn for it.

    Example: dino bench embed --megapixels 12 --photos 16
    """
    from dino_cli.tasks.bench.embed import bench_embed

    result = _shown(bench_embed(config, terminal), terminal)
    terminal.line(f"lowest cosine between the features of both ways: {result['cosine']:.6f}")
    return result


@command(bench, "knn", BenchKnnConfig)
def knn(config: BenchKnnConfig, terminal: Terminal) -> dict[str, Any]:
    """Weighted k-NN over random vectors; the limit is the product of the two matrices alone.

    Example: dino bench knn --queries 4000 --rows 100000
    """
    from dino_cli.tasks.bench.knn import bench_knn

    result = _shown(bench_knn(config, terminal), terminal)
    terminal.line(f"same class in both ways: {100 * result['agreement']:.2f} % of the queries")
    _tell_memory(result, terminal)
    return result


@command(bench, "attention", BenchAttentionConfig)
def attention(config: BenchAttentionConfig, terminal: Terminal) -> dict[str, Any]:
    """Attention of photos, all heads: with all files, and alone against the plain forward pass.

    Example: dino bench attention
    """
    from dino_cli.tasks.bench.attention import bench_attention

    return _shown(bench_attention(config, terminal), terminal)


def _tell_memory(result: dict[str, Any], terminal: Terminal) -> None:
    for part, both in result["memory"].items():
        ours, theirs = (both[side] / 2**20 for side in ("ours", "reference"))
        told = f"memory of the {part}: {ours:.4g} MiB, the original's way {theirs:.4g} MiB"
        terminal.line(f"{told}, {ours / theirs:.2f} of it")


def _shown(result: dict[str, Any], terminal: Terminal) -> dict[str, Any]:
    """The rows as a table; columns of the processor only where it does the work."""
    rows = result["rows"]
    by_cpu = any(row["cpu_ratio"] is not None for row in rows)
    columns = ["work", "unit", "ours", "original's way", "ratio"]
    columns += ["ratio of CPU time"] if by_cpu else []
    columns += ["limit", "share of it", "pairs"]
    table = []
    for row in rows:
        cells = [row["work"], row["unit"], f"{row['ours']:.4g}", f"{row['reference']:.4g}"]
        cells.append(f"{row['ratio']:.2f}")
        if by_cpu:
            cells.append("" if row["cpu_ratio"] is None else f"{row['cpu_ratio']:.2f}")
        cells.append(f"{row['limit']:.3g} ({row['limit_is']})")
        table.append([*cells, f"{100 * row['share_of_limit']:.1f} %", str(row["pairs"])])
    versions = ", ".join(f"{name} {number}" for name, number in result["versions"].items())
    threads = counted(result["threads"], "thread")
    where = f"{result['device']}, {threads}" if result["device"] == "cpu" else result["device"]
    terminal.table(f"{where}; {versions}", columns, table)
    return result
