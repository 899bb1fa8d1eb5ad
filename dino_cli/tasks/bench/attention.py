"""`dino bench attention`: photos of a folder to heat maps and masks, and the attention alone."""

import tempfile
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn
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
from dino_cli.tasks.bench.measure import PairedTimes, describe, paired, row
from dino_cli.tasks.bench.networks import architecture, twins
from dino_cli.tasks.bench.photos import write_photos
from dino_cli.tasks.model import Model

__all__ = ["bench_attention"]


def bench_attention(config: BenchAttentionConfig, reporter: Reporter) -> dict[str, Any]:
    """Seconds per photo with all files of all heads, our weights loaded each time, theirs not; and
    of the attention of one photo in memory, against the plain forward pass of the same network.

    Returns what `measure.describe` says, "precision" and "rows" as of `measure.row`.
    """
    _check(config)
    device = choose_device(config.device)
    size, patch_size = config.image_size, config.patch_size
    model, plain = twins(config.arch, patch_size, device, config.precision)
    files = _with_files(config, model, plain, reporter)
    x = torch.randn(1, 3, size, size, device=device)
    alone = _alone(config, model, x, reporter)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model.backbone.net(x)
    limit = counter.get_total_flops() / matrix_peak(device, model.precision)
    named = f"{config.arch}/{patch_size} at {size}"
    lines = (
        (f"attention files, {named}", files, config.photos),
        (f"attention alone, {named}, against the forward pass", alone, 1),
    )
    return {
        **describe(device),
        "precision": model.precision,
        "rows": [
            row(work, pair, per, "photo", limit=limit, limit_is=f"{model.precision} matrix peak")
            for work, pair, per in lines
        ],
    }


def _check(config: BenchAttentionConfig) -> None:
    if config.photos < 1:
        raise UsageError(f"--photos {config.photos} is not a positive number")
    architecture(config.arch, config.patch_size)  # refuses an impossible patch
    if config.image_size < config.patch_size or config.image_size % config.patch_size:
        raise UsageError(
            f"--image-size {config.image_size} is not a multiple of {config.patch_size}",
            "choose one, as the original's script needs",
        )


def _with_files(
    config: BenchAttentionConfig, model: Model, plain: nn.Module, reporter: Reporter
) -> PairedTimes:
    """`dino attention` on a folder of photos, and the original's way on each of them."""
    size, patch_size, device = config.image_size, config.patch_size, model.device
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        write_photos(folder, config.photos, 375, 500)
        weights = folder / "weights.safetensors"
        tensors = model.backbone.net.state_dict()
        save_file({name: t.cpu().contiguous() for name, t in tensors.items()}, weights)
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
                reference.attention_files(
                    plain, photo, target, device, size=size, patch_size=patch_size
                )

        return paired(
            lambda: attention(asked, Reporter()),
            theirs,
            seconds=config.seconds,
            share=0.5,
            device=device,
            reporter=reporter,
            name="attention, with files",
        )


def _alone(
    config: BenchAttentionConfig, model: Model, x: torch.Tensor, reporter: Reporter
) -> PairedTimes:
    """The attention of one photo (1, 3, H, W), and the plain forward pass of the same network."""
    net = model.backbone.net

    def ours() -> None:
        with torch.inference_mode(), model.autocast():
            last_cls_attention(net, x)

    def forward() -> None:
        with torch.inference_mode(), model.autocast():
            net(x)

    return paired(
        ours,
        forward,
        seconds=config.seconds,
        share=0.5,
        device=model.device,
        reporter=reporter,
        name="attention alone",
    )
