"""`dino bench attention`: photos of a folder to heat maps and masks, and the attention alone."""

import tempfile
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch.utils.flop_counter import FlopCounterMode

from dino_cli.config.attention import AttentionConfig
from dino_cli.config.bench import BenchAttentionConfig
from dino_cli.core.network.attention import last_cls_attention
from dino_cli.errors import UsageError
from dino_cli.progress import Reporter
from dino_cli.runtime import choose_device
from dino_cli.tasks.attention.run import attention
from dino_cli.tasks.bench import reference
from dino_cli.tasks.bench.limits import matrix_peak
from dino_cli.tasks.bench.measure import describe, paired, row
from dino_cli.tasks.bench.networks import architecture, twins
from dino_cli.tasks.bench.photos import write_photos

__all__ = ["bench_attention"]


def bench_attention(config: BenchAttentionConfig, reporter: Reporter) -> dict[str, Any]:
    """Seconds per photo with all files of all heads, our weights loaded each time, theirs not; and
    of the attention of one photo in memory, against the plain forward pass of the same network.

    Returns what `measure.describe` says, "precision" and "rows" as of `measure.row`.
    """
    if config.photos < 1:
        raise UsageError(f"--photos {config.photos} is not a positive number")
    architecture(config.arch, config.patch_size)  # refuses an impossible patch
    if config.image_size < config.patch_size or config.image_size % config.patch_size:
        raise UsageError(
            f"--image-size {config.image_size} is not a multiple of {config.patch_size}",
            "choose one, as the original's script needs",
        )
    device = choose_device(config.device)
    size, patch = config.image_size, config.patch_size
    model, plain = twins(config.arch, patch, device, config.precision)
    net = model.backbone.net
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        write_photos(folder, config.photos, 375, 500)
        weights = folder / "weights.safetensors"
        save_file({name: t.cpu().contiguous() for name, t in net.state_dict().items()}, weights)
        asked = AttentionConfig(
            images=(str(folder / "photos"),),
            output=folder / "ours",
            weights=weights,
            image_size=f"{size}x{size}",
            device=str(device),
            precision=config.precision,
            overwrite=True,
        )

        def theirs() -> None:
            for photo in sorted((folder / "photos").iterdir()):
                target = folder / "theirs" / photo.stem
                reference.attention_files(plain, photo, target, device, size=size, patch=patch)

        files = paired(
            lambda: attention(asked, Reporter()),
            theirs,
            seconds=config.seconds,
            share=0.5,
            device=device,
            reporter=reporter,
            name="attention, with files",
        )
    x = torch.randn(1, 3, size, size, device=device)

    def alone() -> None:
        with torch.inference_mode(), model.autocast():
            last_cls_attention(net, x)

    def forward() -> None:
        with torch.inference_mode(), model.autocast():
            net(x)

    row_alone = paired(
        alone,
        forward,
        seconds=config.seconds,
        share=0.5,
        device=device,
        reporter=reporter,
        name="attention alone",
    )
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        net(x)
    limit = counter.get_total_flops() / matrix_peak(device, model.precision)
    limit_is = f"{model.precision} matrix peak"
    named = f"{config.arch}/{patch} at {size}"
    return {
        **describe(device),
        "precision": model.precision,
        "rows": [
            row(
                f"attention files, {named}",
                files,
                config.photos,
                "photo",
                limit=limit,
                limit_is=limit_is,
            ),
            row(
                f"attention alone, {named}, against the forward pass",
                row_alone,
                1,
                "photo",
                limit=limit,
                limit_is=limit_is,
            ),
        ],
    }
