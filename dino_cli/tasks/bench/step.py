"""`dino bench step`: one training step."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from dino_cli.config.bench import BenchStepConfig
from dino_cli.config.setting import flag_of
from dino_cli.config.train import TrainConfig
from dino_cli.core.training.cuda_graph import GraphedPasses
from dino_cli.core.training.droppath import draw_masks
from dino_cli.core.training.loss import dino_loss, teacher_targets
from dino_cli.core.training.step import StepValues, Views, run_pass, train_step
from dino_cli.errors import TaskError, UsageError
from dino_cli.progress import Reporter
from dino_cli.runtime import DTYPES, Precision, autocast, choose_device, choose_precision
from dino_cli.tasks.bench.limits import matrix_peak
from dino_cli.tasks.bench.measure import describe, paired, row
from dino_cli.tasks.bench.memory import peak_memory
from dino_cli.tasks.bench.networks import architecture
from dino_cli.tasks.bench.reference import Step, pair_loss
from dino_cli.tasks.train.cost import gflop_per_image
from dino_cli.tasks.train.setup import architecture_of, build_networks

__all__ = ["bench_step"]

SIZES = ((2, 224), (8, 96))
CLIP = 3.0
AT = StepValues(
    lr=1e-4, weight_decay=0.04, momentum=0.996, teacher_temperature=0.04, freeze_last_layer=False
)


def bench_step(config: BenchStepConfig, reporter: Reporter) -> dict[str, Any]:
    """Seconds of a step on views that lie on the device, and the most memory it has at once.

    Returns what `measure.describe` says, "precision", "rows" as of `measure.row`, and "memory":
    bytes beyond what lay there before, of the loss ("loss") and on CUDA of the whole step ("step").
    """
    for name in ("batch_size", "out_dim"):
        value = getattr(config, name)
        if value < 1:
            raise UsageError(f"{flag_of(name)} {value} is not a positive number")
    architecture(config.arch, config.patch_size)  # refuses an impossible patch
    device = choose_device(config.device)
    precision = choose_precision(config.precision, device)
    torch.manual_seed(0)
    ours, reference = _ours(config, device, precision), _reference(config, device)
    try:
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
    asked = _settings(config)
    flop = 1e9 * gflop_per_image(asked, architecture_of(asked))
    told = row(
        f"training step, {config.arch}/{config.patch_size}, batch {config.batch_size}",
        pair,
        config.batch_size,
        "image",
        limit=flop / matrix_peak(device, precision),
        limit_is=f"{precision} matrix peak",
    )
    memory = {"loss": _loss_memory(config, device, precision)}
    if device.type == "cuda":  # on a CPU, what was allocated before cannot be told apart
        del ours
        plain = _ours(replace(config, cuda_graph=False), device, precision)  # the same kernels
        plain()
        memory["step"] = {
            "ours": peak_memory(plain, device),
            "reference": peak_memory(reference, device),
        }
    return {**describe(device), "precision": precision, "rows": [told], "memory": memory}


def _loss_memory(
    config: BenchStepConfig, device: torch.device, precision: Precision
) -> dict[str, int]:
    """Bytes beyond the logits that targets, loss and its gradient take, of ten views."""
    rows = config.batch_size
    views = sum(count for count, _ in SIZES)
    centre = torch.zeros(1, config.out_dim, device=device)

    def peak(loss: Callable[[Tensor, Tensor], Tensor], dtype: torch.dtype) -> int:
        student = torch.rand(views * rows, config.out_dim, device=device).to(dtype).requires_grad_()
        teacher = torch.rand(2 * rows, config.out_dim, device=device).to(dtype)
        return peak_memory(lambda: loss(student, teacher).backward(), device)  # type: ignore[no-untyped-call]

    return {
        "ours": peak(
            lambda s, t: dino_loss(s, teacher_targets(t, centre, 0.04), views=views),
            DTYPES[precision],
        ),
        "reference": peak(
            lambda s, t: pair_loss(s, t, centre, views),
            torch.float16 if device.type == "cuda" else torch.float32,
        ),
    }


def _settings(config: BenchStepConfig) -> TrainConfig:
    return TrainConfig(
        arch=config.arch,
        patch_size=config.patch_size,
        out_dim=config.out_dim,
        batch_size=config.batch_size,
    )


def _ours(config: BenchStepConfig, device: torch.device, precision: Any) -> Any:
    train = _settings(config)
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
    graphed = config.cuda_graph and device.type == "cuda" and scaler is None
    passes = GraphedPasses(clip_grad=CLIP) if graphed else run_pass
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
            clip_grad=CLIP,
            autocast=lambda: autocast(device, precision),
            scaler=scaler,
            passes=passes,
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
