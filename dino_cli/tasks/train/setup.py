"""From the options of `dino train` to networks, views and schedules."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from dino_cli.config.resolve import read_run
from dino_cli.config.setting import Size, height_and_width
from dino_cli.config.shared import IMAGENET_MEAN, IMAGENET_STD, Preprocessing
from dino_cli.config.train import TrainConfig
from dino_cli.config.values import counted
from dino_cli.core.network.architecture import (
    VIT_SIZES,
    Architecture,
    TimmArchitecture,
    VitArchitecture,
    architecture_from_json,
)
from dino_cli.core.network.backbone import build, build_empty, feature_width
from dino_cli.core.training.head import DinoHead
from dino_cli.core.training.multicrop import MultiCrop
from dino_cli.core.training.optim import make_optimizer
from dino_cli.core.training.schedule import cosine_schedule, teacher_temperatures
from dino_cli.core.training.step import Networks, StepValues
from dino_cli.data.views.batches import BatchPlan, ViewSchedule
from dino_cli.data.views.draws import ViewSpec
from dino_cli.errors import UsageError
from dino_cli.progress import Reporter
from dino_cli.store.weights.timm_models import did_you_mean
from dino_cli.tasks.train.start import head_from, start_from

__all__ = [
    "Schedules",
    "architecture_of",
    "attention_size_of",
    "build_networks",
    "drop_path_of",
    "plan_of",
    "preprocessing_of",
    "schedules_of",
    "view_schedule_of",
    "warmup_epochs_of",
]


def architecture_of(config: TrainConfig) -> Architecture:
    """A DINO ViT for the named sizes (with --width, --depth, --heads), else timm's model."""
    if config.arch in VIT_SIZES:
        width, depth, heads = VIT_SIZES[config.arch]
        if config.width is not None and config.heads is None:
            heads = max(1, config.width // 64)
        width, depth = config.width or width, config.depth or depth
        heads = config.heads or heads
        if width % heads:
            raise UsageError(
                f"a width of {width} does not divide into {heads} heads", "choose --heads to fit"
            )
        rows, columns = (s // config.patch_size for s in height_and_width(config.global_size))
        if config.conv_stem and (
            config.patch_size < 2 or config.patch_size & (config.patch_size - 1)
        ):
            raise UsageError(
                f"--conv-stem needs a patch size of 2, 4, 8, 16 or 32, not {config.patch_size}",
                "change --patch-size or leave --conv-stem out",
            )
        return VitArchitecture(
            width=width,
            depth=depth,
            heads=heads,
            patch_size=config.patch_size,
            grid=(rows, columns),
            in_chans=config.in_chans,
            conv_stem=config.conv_stem,
        )
    for name in ("width", "depth", "heads"):
        if getattr(config, name) is not None:
            raise UsageError(
                f"--{name} applies to vit_tiny, vit_small and vit_base, not {config.arch}"
            )
    if config.patch_size != TrainConfig.patch_size or config.conv_stem:
        raise UsageError(
            f"--patch-size and --conv-stem apply to vit_tiny, vit_small and vit_base, "
            f"not {config.arch}",
            "choose the timm model of that patch size",
        )
    made = timm_architecture(config.arch, config.in_chans, config.global_size)
    return made if config.resume is None else _as_begun(config.resume, made)


def _as_begun(run: Path, made: TimmArchitecture) -> Architecture:
    """What an older version built for a run stays, though a new one would get other arguments."""
    try:
        return architecture_from_json(read_run(run)["architecture"])
    except (KeyError, TypeError, ValueError):
        return made


def timm_architecture(name: str, in_chans: int, size: Size) -> TimmArchitecture:
    """Raises `UsageError` with close matches for a name that timm does not know."""
    import timm

    if not timm.is_model(name):
        raise UsageError(f"unknown architecture {name!r}", did_you_mean(name))
    arguments: Mapping[str, Any] = {}
    if name.startswith(("vit_", "deit", "eva", "beit")):
        arguments = _vit_arguments(name, size)
    elif name.startswith("resnet"):
        arguments = {"zero_init_last": False}  # as torchvision's, which the reference trains
    return TimmArchitecture(name=name, in_chans=in_chans, arguments=arguments)


@cache
def _vit_arguments(name: str, size: Size) -> Mapping[str, Any]:
    """What timm must be told for a ViT of views of any size, where it resamples its positions (the
    relative ones it does not), that learns by its class token.

    timm's default is the mean of the patches in BEiT, EVA and DINOv3. DINO learns by the class
    token, and that is what `dino embed` gives.
    """
    arguments: dict[str, Any] = {"img_size": size, "dynamic_img_size": True}
    try:
        try:
            net = build_empty(TimmArchitecture(name=name, arguments=arguments))
        except TypeError as error:
            if "dynamic_img_size" not in str(error):
                raise
            del arguments["dynamic_img_size"]
            net = build_empty(TimmArchitecture(name=name, arguments=arguments))
    except (AssertionError, RuntimeError, TypeError, ValueError):  # told where it is built
        return arguments
    averages = getattr(net, "global_pool", "") == "avg"
    if averages and getattr(net, "cls_token", None) is not None:
        arguments["global_pool"] = "token"
    return arguments


def drop_path_of(architecture: Architecture, config: TrainConfig) -> float:
    """The student's; the reference has none in ResNets, whatever the option says."""
    resnet = isinstance(architecture, TimmArchitecture) and architecture.name.startswith("resnet")
    return 0.0 if resnet else config.drop_path


def preprocessing_of(config: TrainConfig) -> Preprocessing:
    """How the trained model wants its images: 256 and 224 px, scaled to the global views."""
    grown = config.final_size if config.final_share else None
    size = grown[0] if grown else config.global_size
    return Preprocessing(
        resize=round(min(height_and_width(size)) * 256 / 224),
        crop=size,
        mean=_per_channel(config.mean, IMAGENET_MEAN, config.in_chans),
        std=_per_channel(config.std, IMAGENET_STD, config.in_chans),
        exif=config.exif,
        own_depth=config.in_chans != 3,
    )


def _per_channel(
    given: tuple[float, ...], default: tuple[float, ...], channels: int
) -> tuple[float, ...]:
    if channels != len(default) and given == default:
        given = (sum(default) / len(default),)
    return given * channels if len(given) == 1 else given


def attention_size_of(config: TrainConfig) -> int:
    """The paper's 480 px for 224 px global views, scaled to this run's."""
    cut = preprocessing_of(config).cut
    assert cut is not None
    return round(min(cut) * 480 / 224)


def view_schedule_of(config: TrainConfig) -> ViewSchedule:
    """Two global views and the local ones (paper, section 3.2; the reference's transforms)."""

    def spec(kind: str, blur: float, solarize: float) -> ViewSpec:
        return ViewSpec(
            size=getattr(config, f"{kind}_size"),
            scale=getattr(config, f"{kind}_crops_scale"),
            jitter=config.jitter,
            jitter_prob=config.jitter_prob,
            grayscale_prob=config.grayscale_prob,
            blur_prob=blur,
            solarize_prob=solarize,
        )

    blur_1, blur_2, blur_local = config.blur_prob
    return ViewSchedule(
        globals_=(spec("global", blur_1, 0.0), spec("global", blur_2, config.solarize_prob)),
        locals_=(spec("local", blur_local, 0.0),) * config.local_crops_number,
        ramp=config.augment_ramp,
        start=config.augment_start,
        final_size=config.final_size,
        final_share=config.final_share,
    )


def plan_of(config: TrainConfig, images: int, *, rank: int = 0, ranks: int = 1) -> BatchPlan:
    """Which images come when, for one of several ranks."""
    return BatchPlan(
        images=images,
        epochs=config.epochs,
        batch=config.batch_size,
        seed=config.seed,
        accumulate=config.accumulate,
        rank=rank,
        ranks=ranks,
    )


@dataclass(frozen=True, kw_only=True)
class Schedules:
    """Everything that changes over the run, float64."""

    lr: NDArray[np.float64]
    weight_decay: NDArray[np.float64]
    momentum: NDArray[np.float64]
    temperature: NDArray[np.float64]  # per epoch
    freeze_steps: int
    steps_per_epoch: int

    def at(self, step: int) -> StepValues:
        return StepValues(
            lr=float(self.lr[step]),
            weight_decay=float(self.weight_decay[step]),
            momentum=float(self.momentum[step]),
            teacher_temperature=float(self.temperature[step // self.steps_per_epoch]),
            freeze_last_layer=step < self.freeze_steps,
        )


def warmup_epochs_of(config: TrainConfig) -> float:
    """10 where they are not given; in shorter runs a tenth."""
    if config.warmup_epochs is not None:
        return config.warmup_epochs
    return 10.0 if config.epochs >= 10 else config.epochs / 10


def schedules_of(config: TrainConfig, plan: BatchPlan, reporter: Reporter) -> Schedules:
    """The reference's schedules: learning rate per 256 images of the total batch."""
    warmup = warmup_epochs_of(config)
    if config.warmup_epochs is None and config.epochs < 10:
        reporter.remark(
            f"a run of {counted(config.epochs, 'epoch')} warms up for a tenth of its steps "
            "instead of 10 epochs; --warmup-epochs changes that"
        )
    per_epoch, steps = plan.steps_per_epoch, plan.steps
    return Schedules(
        lr=cosine_schedule(
            config.lr * plan.total_batch / 256,
            config.min_lr,
            steps,
            warmup_steps=round(warmup * per_epoch),
        ),
        weight_decay=cosine_schedule(config.weight_decay, config.weight_decay_end, steps),
        momentum=cosine_schedule(config.momentum_teacher, 1.0, steps),
        temperature=teacher_temperatures(
            config.warmup_teacher_temp,
            config.teacher_temp,
            config.epochs,
            warmup_epochs=config.warmup_teacher_temp_epochs,
        ),
        freeze_steps=round(min(config.freeze_last_layer, config.epochs) * per_epoch),
        steps_per_epoch=per_epoch,
    )


def build_networks(
    config: TrainConfig,
    architecture: Architecture,
    device: torch.device,
    reporter: Reporter,
    *,
    resumed: bool = False,
) -> Networks:
    """Student and teacher with equal weights, the optimizer, and the centre: zeros, but for a head
    that goes on."""
    torch.manual_seed(config.seed)
    student = _multi_crop(config, architecture, drop_path=drop_path_of(architecture, config))
    centre = None
    # A checkpoint holds everything: the file that the run began with may be gone by then.
    if config.init_from is not None and not resumed:
        start_from(config, student.backbone, architecture, reporter)
        centre = head_from(config, student.head, reporter)
    teacher = _multi_crop(config, architecture, drop_path=0.0)
    teacher.load_state_dict(student.state_dict())
    teacher.requires_grad_(False)
    for network in (student, teacher):
        network.to(device).train()  # the teacher too, as the reference's: batch norm
        if device.type == "cuda" and (
            config.conv_stem or isinstance(architecture, TimmArchitecture)
        ):
            # What kernels of convolutions want; batch norm takes a fraction of the time.
            network.to(memory_format=torch.channels_last)
        if config.checkpoint_activations and network is student:
            student.backbone.set_grad_checkpointing(True)  # type: ignore[operator]
        for module in network.modules():
            # Explicit products beat scaled_dot_product_attention's bf16 backward on CPUs 5 to 7 ×;
            # the teacher has none, and its forward is the faster one.
            if device.type == "cpu" and network is student and hasattr(module, "fused_attn"):
                module.fused_attn = False  # type: ignore[assignment]
    return Networks(
        student=student,
        teacher=teacher,
        optimizer=make_optimizer(config.optimizer, student),
        centre=(torch.zeros(1, config.out_dim) if centre is None else centre).to(device),
        centre_momentum=config.center_momentum,
        koleo_weight=config.koleo_weight,
    )


def _multi_crop(config: TrainConfig, architecture: Architecture, *, drop_path: float) -> MultiCrop:
    backbone = build(architecture, drop_path=drop_path)
    head = DinoHead(
        feature_width(backbone),
        config.out_dim,
        hidden_dim=config.head_hidden,
        bottleneck_dim=config.head_bottleneck,
        use_bn=config.use_bn_in_head,
        norm_last_layer=config.norm_last_layer,
    )
    return MultiCrop(backbone, head)
