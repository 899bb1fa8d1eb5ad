"""`dino bench knn`: the nearest neighbours of many vectors, and their votes."""

from typing import Any

import torch
import torch.nn.functional as F

from dino_cli.config.bench import BenchKnnConfig
from dino_cli.core.evaluation.neighbors import INDEX_BLOCK, QUERY_BLOCK, nearest, votes
from dino_cli.errors import UsageError
from dino_cli.progress import Reporter
from dino_cli.runtime import choose_device
from dino_cli.tasks.bench.measure import describe, paired, row
from dino_cli.tasks.bench.memory import peak_memory
from dino_cli.tasks.bench.reference import knn_classify

__all__ = ["bench_knn"]


def bench_knn(config: BenchKnnConfig, reporter: Reporter) -> dict[str, Any]:
    """Seconds from features in memory to classes, against the original's way and the bare product.

    Returns what `measure.describe` says, "agreement" (share of queries with the same class, both
    ways), "memory" (bytes beyond the features) and "rows" as of `measure.row`; the limit is the
    product alone, in the same blocks.
    """
    for name in ("queries", "rows", "dim", "k", "classes"):
        if getattr(config, name) < 1:
            raise UsageError(f"--{name} must be at least 1")
    if config.k > config.rows:
        raise UsageError(f"--k {config.k} is more than --rows {config.rows}")
    device = choose_device(config.device)
    torch.manual_seed(0)
    index, queries = torch.randn(config.rows, config.dim), torch.randn(config.queries, config.dim)
    labels = torch.randint(config.classes, (config.rows,))
    train = F.normalize(index.to(device), dim=1)
    there = labels.to(device)

    def ours() -> torch.Tensor:
        blocks = nearest(queries.numpy(), index.numpy(), config.k, device=device)
        return torch.cat(
            [votes(near, labels[which], config.classes)[0][:, 0] for near, which in blocks]
        )

    def theirs() -> torch.Tensor:
        test = F.normalize(queries.to(device), dim=1)
        found = knn_classify(train, there, test, config.classes, config.k)
        return found[:, 0].cpu()

    out = torch.empty(min(QUERY_BLOCK, len(queries)), INDEX_BLOCK, device=device)

    def product() -> None:
        for q in torch.split(queries.to(device), QUERY_BLOCK):
            for x in torch.split(train, INDEX_BLOCK):
                torch.mm(q, x.T, out=out[: len(q), : len(x)])

    shape = f"{config.queries} x {config.rows} x {config.dim}"
    told = {"seconds": config.seconds, "share": 0.5, "device": device, "reporter": reporter}
    against = paired(ours, theirs, name="k-NN and the original's way", **told)  # type: ignore[arg-type]
    bare = paired(ours, product, name="k-NN and the bare product", **told)  # type: ignore[arg-type]
    line = row(
        f"k-NN {shape}, k {config.k}",
        against,
        config.queries,
        "query",
        limit=against.ours * bare.ratio / config.queries,
        limit_is="bare product",
    )
    agreement = float((ours() == theirs()).float().mean())
    memory = {"ours": peak_memory(ours, device), "reference": peak_memory(theirs, device)}
    return {
        **describe(device),
        "agreement": round(agreement, 6),
        "memory": {"search": memory},
        "rows": [line],
    }
