"""`dino bench embed`: from JPEG files to features."""

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from dino_cli.config.bench import BenchEmbedConfig
from dino_cli.config.embed import EmbedConfig
from dino_cli.config.setting import flag_of
from dino_cli.data.listing.images import find_images
from dino_cli.errors import UsageError
from dino_cli.progress import Reporter
from dino_cli.runtime import available_cores, choose_device
from dino_cli.tasks.bench import reference
from dino_cli.tasks.bench.limits import matrix_peak
from dino_cli.tasks.bench.measure import describe, paired, row
from dino_cli.tasks.bench.networks import twins
from dino_cli.tasks.bench.photos import write_photos
from dino_cli.tasks.embed.forward import embed_files

__all__ = ["bench_embed"]


def bench_embed(config: BenchEmbedConfig, reporter: Reporter) -> dict[str, Any]:
    """Seconds from files to features in memory, processes that decode started anew each time.

    Returns what `measure.describe` says, "precision", "cosine" (the lowest between features of
    both ways) and "rows" as of `measure.row`.
    """
    for name in ("photos", "batch_size"):
        if getattr(config, name) < 1:
            raise UsageError(f"{flag_of(name)} must be at least 1")
    if not 0.05 <= config.megapixels <= 50:
        raise UsageError(f"--megapixels {config.megapixels:g} is not from 0.05 to 50")
    device = choose_device(config.device)
    workers = min(config.workers, available_cores())
    height = round((config.megapixels * 1e6 * 3 / 4) ** 0.5)
    width = round(height * 4 / 3)
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        write_photos(folder, config.photos, height, width)
        model, plain = twins(config.arch, config.patch_size, device, config.precision)
        files = find_images([made])
        compute = EmbedConfig(batch_size=config.batch_size, workers=workers, device=str(device))

        def ours() -> torch.Tensor:
            found = embed_files(files, model, model.preprocessing, compute, Reporter())
            return torch.from_numpy(np.concatenate([batch.features for batch in found]))

        def theirs() -> torch.Tensor:
            return reference.extract(
                plain, folder, device, batch_size=config.batch_size, workers=workers
            )

        pair = paired(
            ours,
            theirs,
            seconds=config.seconds,
            device=device,
            reporter=reporter,
            name="embedding",
        )
        cosine = float(F.cosine_similarity(ours(), theirs()).min())
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        plain(torch.zeros(1, 3, 224, 224, device=device))
    return {
        **describe(device),
        "precision": model.precision,
        "cosine": round(cosine, 6),
        "rows": [
            row(
                f"embed {width} x {height} JPEGs, {config.arch}/{config.patch_size}",
                pair,
                config.photos,
                "photo",
                limit=counter.get_total_flops() / matrix_peak(device, model.precision),
                limit_is=f"{model.precision} matrix peak",
            )
        ],
    }
