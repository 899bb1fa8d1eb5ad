"""`dino bench step`: one training step."""

from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from dino_cli.config.bench import BenchStepConfig
from dino_cli.config.train import TrainConfig
from dino_cli.core.droppath import draw_masks
from dino_cli.core.step import StepValues, Views, train_step
from dino_cli.errors import TaskError, UsageError
from dino_cli.progress import Reporter
from dino_cli.runtime import autocast, choose_device, choose_precision
from dino_cli.tasks.bench.limits import matrix_peak
from dino_cli.tasks.bench.measure import describe, finish, paired, row
from dino_cli.tasks.bench.reference import Step
from dino_cli.tasks.train.setup import architecture_of, build_networks

__all__ = ["bench_step"]

SIZES = ((2, 224), (8, 96))
AT = StepValues(
    lr=1e-4, weight_decay=0.04, momentum=0.996, teacher_temperature=0.04, freeze_last_layer=False
)


def bench_step(config: BenchStepConfig, reporter: Reporter) -> dict[str, Any]:
    """Seconds of a step on views that lie on the device; on CUDA also the peak of its memory.

    Returns what `measure.describe` says, "precision", and "rows" as of `measure.row`.
    """
    if config.batch_size < 1:
        raise UsageError(f"--batch-size {config.batch_size} is not a positive number")
    device = choose_device(config.device)
    precision = choose_precision(config.precision, device)
    torch.manual_seed(0)
    ours, reference = _ours(config, device, precision), _reference(config, device)
    try:
        with FlopCounterMode(display=False) as counter:
            ours()
        pair = paired(
            ours,
            reference,
            seconds=config.seconds,
            device=device,
            reporter=reporter,
            name="training steps",
        )
    except torch.OutOfMemoryError:
        raise TaskError(
            f"a batch of {config.batch_size} images does not fit into the memory of {device}",
            "use a smaller --batch-size",
        ) from None
    limit = counter.get_total_flops() / config.batch_size / matrix_peak(device, precision)
    told = row(
        f"training step, {config.arch}/{config.patch_size}, batch {config.batch_size}",
        pair,
        config.batch_size,
        "image",
        limit=limit,
        limit_is=f"{precision} matrix peak",
    )
    result = {**describe(device), "precision": precision, "rows": [told]}
    if device.type == "cuda":
        result["memory"] = {
            "ours": _peak(ours, device),
            "reference": _peak(reference, device),
        }
    return result


def _ours(config: BenchStepConfig, device: torch.device, precision: Any) -> Any:
    train = TrainConfig(
        arch=config.arch,
        patch_size=config.patch_size,
        out_dim=config.out_dim,
        batch_size=config.batch_size,
    )
    networks = build_networks(train, architecture_of(train), device, Reporter())
    if config.compile:
        networks.student.compile()
        networks.teacher.compile()
    scaler = torch.amp.GradScaler(device.type) if precision == "fp16" else None
    groups = [
        torch.randn(count * config.batch_size, 3, size, size, device=device)
        for count, size in SIZES
    ]
    rates = [layer.rate for layer in networks.student.drop_paths]
    step = 0

    def work() -> None:
        nonlocal step
        step += 1
        masks = [
            draw_masks(
                rates,
                key=(0, step, 0, i),
                views=count,
                images=config.batch_size,
                share=slice(0, config.batch_size),
            ).to(device, non_blocking=True)
            for i, (count, _) in enumerate(SIZES)
        ]
        train_step(
            networks,
            [Views(groups=groups, masks=masks)],
            AT,
            clip_grad=3.0,
            autocast=lambda: autocast(device, precision),
            scaler=scaler,
        )

    return work


def _reference(config: BenchStepConfig, device: torch.device) -> Any:
    step = Step(config.arch, config.patch_size, config.out_dim, device, half=device.type == "cuda")
    views = [
        torch.randn(config.batch_size, 3, size, size, device=device)
        for count, size in SIZES
        for _ in range(count)
    ]
    return lambda: step(views)


def _peak(work: Any, device: torch.device) -> int:
    """Bytes that a step needs beyond what lay there before, weights and optimizer of both."""
    finish(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    work()
    finish(device)
    return torch.cuda.max_memory_allocated(device) - before
