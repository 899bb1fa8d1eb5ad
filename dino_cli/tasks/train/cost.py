"""What a run will cost: parameters, arithmetic, memory, time, communication."""

import time
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from dino_cli.config.setting import Size, height_and_width
from dino_cli.config.train import TrainConfig
from dino_cli.core.network.architecture import Architecture
from dino_cli.core.network.backbone import build_empty, feature_width
from dino_cli.core.training.head import DinoHead
from dino_cli.core.training.step import Networks, StepValues, Views, train_step
from dino_cli.data.listing.images import find_images
from dino_cli.errors import TaskError
from dino_cli.progress import Reporter
from dino_cli.runtime import autocast, choose_precision, processes_wanted, rank_device
from dino_cli.tasks.train.check import check, check_views
from dino_cli.tasks.train.setup import architecture_of, build_networks, plan_of

__all__ = ["cost_of", "gflop_per_image"]

TRIAL_BATCH = 4  # images of the trial steps on a CPU, where a full batch would take minutes
TRIAL_SECONDS = 5.0
# Bandwidth in bytes a second that communication is reckoned with.
WITHIN_NODE = 150e9  # NVLink of a current GPU, what an all-reduce gets of it
BETWEEN_NODES = 40e9  # 400 Gbit/s a node, likewise
GPUS_A_NODE = 8


def cost_of(config: TrainConfig, reporter: Reporter) -> dict[str, Any]:
    """Takes a few trial steps on random images; the data is only listed.

    Returns "images", "steps" (None for data that is not here), "parameters" (backbone, head),
    "gflop_per_image" (all views, student and teacher, forward and backward; a multiply-add is two),
    "images_per_second" (of the step alone, on "device" with "trial_batch" images), "hours" (at that
    rate, larger views at the end by their arithmetic), "memory_gib" (of weights, gradients,
    optimizer and activations at the full batch) and "communication".
    """
    check(config)
    architecture = architecture_of(config)
    check_views(architecture, config)
    try:
        images = len(find_images(config.data, null=config.null))
    except TaskError as error:  # a plan for data that is elsewhere has a cost all the same
        reporter.remark(f"steps and hours are unknown: {error}")
        images = 0
    count = processes_wanted(config.gpus, config.device)
    plan = plan_of(config, images, ranks=count)
    device = rank_device(config.device)
    reporter.stage("trial steps", None, "steps")
    networks = build_networks(config, architecture, device, Reporter(), resumed=True)
    trial = config.batch_size if device.type == "cuda" else min(TRIAL_BATCH, config.batch_size)
    try:
        seconds, saved = _try(config, networks, device, trial, reporter)
    except torch.OutOfMemoryError:
        raise TaskError(
            f"a batch of {trial} images does not fit into the memory of {device}",
            "lower --batch-size or use --checkpoint-activations",
        ) from None
    reporter.finish()
    backbone = sum(p.numel() for p in networks.student.backbone.parameters())
    head = sum(p.numel() for p in networks.student.head.parameters())
    trained = sum(p.numel() for p in networks.student.parameters() if p.requires_grad)
    rate = trial / seconds
    grown = _growth(config, architecture)
    steps = min(plan.steps, config.max_steps or plan.steps)
    at_the_end = max(0.0, steps - (1 - config.final_share) * plan.steps) / max(1, steps)
    slower = 1 + at_the_end * (grown - 1)
    # Student, gradient and two moments of AdamW (one of SGD and LARS), and the teacher.
    copies = 5 if config.optimizer == "adamw" else 4
    memory = 4 * copies * (backbone + head) + saved * config.batch_size / trial * max(1.0, grown)
    return {
        "images": images or None,
        "steps": steps if images else None,
        "total_batch": plan.total_batch,
        "parameters": {"backbone": backbone, "head": head},
        "gflop_per_image": float(f"{gflop_per_image(config, architecture):.4g}"),
        "device": str(device),
        "processes": count,
        "trial_batch": trial,
        "images_per_second": round(rate * count, 2),
        "hours": round(steps * plan.total_batch / (rate * count) / 3600 * slower, 2)
        if images
        else None,
        "memory_gib": round(memory / 2**30, 2),
        "communication": _communication(config, trained, config.batch_size / rate),
    }


def _growth(config: TrainConfig, architecture: Architecture) -> float:
    """How many times the arithmetic of a step the views of `final_size` take; 1 without them."""
    if not config.final_size or not config.final_share:
        return 1.0
    large, small = config.final_size
    later = replace(config, global_size=large, local_size=small)
    return gflop_per_image(later, architecture) / gflop_per_image(config, architecture)


def gflop_per_image(config: TrainConfig, architecture: Architecture) -> float:
    """Of one image: the student's forward and backward (twice the forward) over all views, the
    teacher's forward over two."""
    backbone = build_empty(architecture)
    with torch.device("meta"):
        head = DinoHead(
            feature_width(backbone),
            config.out_dim,
            hidden_dim=config.head_hidden,
            bottleneck_dim=config.head_bottleneck,
        )

        def forward(size: Size) -> float:
            with FlopCounterMode(display=False) as counter, torch.no_grad():
                head(backbone(torch.empty(1, config.in_chans, *height_and_width(size))))
            return float(counter.get_total_flops()) / 1e9

        backbone.eval()
        for module in backbone.modules():
            if hasattr(module, "fused_attn"):
                module.fused_attn = False  # type: ignore[assignment]
        large = forward(config.global_size)
        small = forward(config.local_size) if config.local_crops_number else 0.0
    return 3 * (2 * large + config.local_crops_number * small) + 2 * large


def _try(
    config: TrainConfig, networks: Networks, device: torch.device, batch: int, reporter: Reporter
) -> tuple[float, int]:
    """Seconds of a step, and bytes that the backward pass keeps of `batch` images."""
    shapes = [(2, config.global_size), (config.local_crops_number, config.local_size)]
    groups = [
        torch.rand(views * batch, config.in_chans, *height_and_width(size), device=device)
        for views, size in shapes
        if views
    ]
    precision = choose_precision(config.precision, device)
    at = StepValues(
        lr=0.0, weight_decay=0.0, momentum=1.0, teacher_temperature=0.04, freeze_last_layer=False
    )
    step = partial(
        train_step,
        networks,
        [Views(groups=groups)],
        at,
        clip_grad=config.clip_grad,
        autocast=partial(autocast, device, precision),
    )
    kept: dict[int, int] = {}
    own = {p.untyped_storage()._cdata for p in networks.student.parameters()}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in own:
            kept[storage._cdata] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        step()
    times: list[float] = []
    began = time.monotonic()
    while len(times) < 2 or (time.monotonic() - began < TRIAL_SECONDS and len(times) < 10):
        start = time.monotonic()
        step().loss.item()  # waits for the device
        times.append(time.monotonic() - start)
        reporter.advance()
    return sorted(times)[len(times) // 2], sum(kept.values())


def _communication(config: TrainConfig, trained: int, seconds: float) -> dict[str, Any]:
    """Per step and GPU: the gradients' ring all-reduce, and the centre's.

    efficiency: step time over step time with all communication waited for; the overlap with the
    backward pass, which hides most of it, is not counted.
    """
    size = trained * (2 if config.compress_gradients else 4) + 4 * (config.out_dim + 1)

    def efficiency(gpus: int) -> float:
        bandwidth = WITHIN_NODE if gpus <= GPUS_A_NODE else BETWEEN_NODES
        sent = 2 * (gpus - 1) / gpus * size
        return round(seconds / (seconds + sent / bandwidth), 4)

    return {
        "megabytes_per_step": round(2 * size / 1e6, 1),
        "assumed_gb_per_second": {"8": WITHIN_NODE / 1e9, "64": BETWEEN_NODES / 1e9},
        "efficiency_without_overlap": {"8": efficiency(8), "64": efficiency(64)},
    }
