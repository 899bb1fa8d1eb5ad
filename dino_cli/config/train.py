"""The options of `dino train`: those of the reference's `main_dino.py`, and ours."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from dino_cli.config.setting import Size, setting
from dino_cli.config.shared import IMAGENET_MEAN, IMAGENET_STD, ImageOptions, ListOptions

__all__ = ["TrainConfig"]

MODEL = "Model"
METHOD = "Method"
OPTIM = "Optimisation"
VIEWS = "Views"
RUN = "Run"


@dataclass(frozen=True, kw_only=True)
class TrainConfig(ImageOptions, ListOptions):
    """`dino train`: DINO self-distillation without labels."""

    data: tuple[str, ...] = setting(
        (),
        "Folders of images (searched recursively, classes not needed), files, .txt lists, or - for "
        "a list on stdin.",
        argument=True,
        metavar="DATA...",
    )
    output: Path | None = setting(
        None, "Run folder; default runs/<time>.", flag="--output,-o", panel=RUN
    )
    resume: Path | None = setting(
        None, "Go on with this run folder, from its newest checkpoint.", panel=RUN, metavar="RUN"
    )
    preset: str | None = setting(
        None, "A recipe by name; flags and --config win over it.", panel=RUN, metavar="NAME"
    )
    config: Path | None = setting(
        None, "Options from a TOML file; flags win over it.", panel=RUN, metavar="FILE"
    )
    dry_run: bool = setting(
        False,
        "Print the resolved configuration as JSON and stop; with --json also the cost: parameters, "
        "arithmetic, memory, steps and hours, from a few trial steps.",
        panel=RUN,
    )
    print_sbatch: bool = setting(
        False, "Print a job script for SLURM that runs and resumes this command.", panel=RUN
    )

    arch: str = setting(
        "vit_small",
        "vit_tiny, vit_small, vit_base, resnet50, xcit_* or any timm model. For quick experiments "
        "use vit_tiny or vit_small.",
        panel=MODEL,
    )
    patch_size: int = setting(
        16,
        "Side of a patch in pixels, for ViTs. Smaller is better and needs more memory; under 16 "
        "mixed precision can be unstable.",
        panel=MODEL,
    )
    width: int | None = setting(None, "Width, for a ViT other than the named sizes.", panel=MODEL)
    depth: int | None = setting(None, "Number of blocks of such a ViT.", panel=MODEL)
    heads: int | None = setting(
        None, "Attention heads of such a ViT; else width / 64.", panel=MODEL
    )
    conv_stem: bool = setting(
        False,
        "Stride-2 convolutions instead of one patch projection.",
        panel=MODEL,
        switch=True,
    )
    drop_path: float = setting(
        0.1, "Stochastic depth of the student, a linear ramp over its blocks.", panel=MODEL
    )
    init_from: str | None = setting(
        None,
        "Start student and teacher from these weights: a file, a run folder, or the name of a "
        "model (see `dino weights list`). The projection head and the centre of a full checkpoint "
        "or a run go on too.",
        panel=MODEL,
        metavar="WEIGHTS",
    )
    in_chans: int = setting(
        3,
        "Channels of the input. 3: photos in 8-bit RGB. 1 or any other number: images in their own "
        "depth (PNG, TIFF, .npy; 16-bit, float), uint8 / 255, uint16 / 65535, floats as they are; "
        "of the colour changes, only brightness and contrast apply then.",
        panel=MODEL,
    )

    out_dim: int = setting(
        65536,
        "Prototypes K, the outputs of the head. Large values work well for large, complex data.",
        panel=METHOD,
    )
    head_hidden: int = setting(2048, "Width of the head's hidden layers.", panel=METHOD)
    head_bottleneck: int = setting(256, "Width of the head's bottleneck.", panel=METHOD)
    use_bn_in_head: bool = setting(
        False,
        "Batch norm in the head; small data collapses without it.",
        panel=METHOD,
        switch=True,
    )
    norm_last_layer: bool = setting(
        True,
        "Prototypes of length 1. Without it performance is better but training can be unstable; "
        "typically off for vit_small, on for vit_base.",
        panel=METHOD,
    )
    momentum_teacher: float = setting(
        0.996,
        "Start of the teacher's momentum, which rises to 1 by a cosine. Higher for small batches, "
        "such as 0.9995 for a batch of 256.",
        panel=METHOD,
    )
    warmup_teacher_temp: float = setting(
        0.04,
        "Start of the teacher's temperature. Try less if the loss does not decrease.",
        panel=METHOD,
    )
    teacher_temp: float = setting(
        0.04,
        "Temperature after the warm-up. Above 0.07 is mostly unstable; start with 0.04 and "
        "increase it slightly if needed.",
        panel=METHOD,
    )
    warmup_teacher_temp_epochs: int = setting(
        0, "Epochs of the temperature's linear warm-up.", panel=METHOD
    )
    koleo_weight: float = setting(
        0.0,
        "Weight of the KoLeo regulariser, which spreads the images' features (DINOv2 uses 0.1); "
        "for small data, whose features lose rank. 0: the paper's loss.",
        panel=METHOD,
    )
    center_momentum: float = setting(0.9, "Momentum of the centre.", panel=METHOD)
    center_init: Literal["zero", "batch"] = setting(
        "zero", "Start of the centre: zero, or the first batch's mean.", panel=METHOD
    )
    freeze_last_layer: float = setting(
        1,
        "Epochs during which the last layer stays fixed. Try more if the loss does not decrease.",
        panel=METHOD,
    )

    optimizer: Literal["adamw", "sgd", "lars"] = setting(
        "adamw", "adamw for ViTs; sgd or lars for convnets and large batches.", panel=OPTIM
    )
    lr: float = setting(
        0.0005, "Peak learning rate per 256 images of the total batch.", panel=OPTIM
    )
    min_lr: float = setting(1e-6, "Learning rate at the end, not scaled.", panel=OPTIM)
    warmup_epochs: float | None = setting(
        None,
        "Epochs of the learning rate's linear warm-up; default 10, in a run of fewer than 10 "
        "epochs a tenth of it.",
        panel=OPTIM,
    )
    weight_decay: float = setting(
        0.04, "Start of the weight decay. Small at the beginning works well for ViTs.", panel=OPTIM
    )
    weight_decay_end: float = setting(
        0.4, "End of the weight decay, reached by a cosine.", panel=OPTIM
    )
    clip_grad: float = setting(
        3.0,
        "Largest gradient norm of each parameter tensor; 0.3 to 1 helps larger ViTs. 0: off.",
        panel=OPTIM,
    )
    batch_size: int = setting(64, "Images per GPU and forward pass.", panel=OPTIM)
    accumulate: int = setting(1, "Forward passes per optimizer step.", panel=OPTIM)
    epochs: int = setting(100, "Passes over the data.", panel=OPTIM)
    max_steps: int | None = setting(
        None, "Stop after so many steps; the schedules stay those of --epochs.", panel=OPTIM
    )

    global_size: Size = setting(
        224,
        "Side of the two global views in pixels, or height x width: 224x112.",
        panel=VIEWS,
        metavar="H[xW]",
    )
    local_size: Size = setting(
        96, "Side of the local views, or height x width.", panel=VIEWS, metavar="H[xW]"
    )
    global_crops_scale: tuple[float, float] = setting(
        (0.4, 1.0),
        "Range of a global view's share of the image. Wider without local views: 0.14 1.",
        panel=VIEWS,
    )
    local_crops_scale: tuple[float, float] = setting(
        (0.05, 0.4), "Range of a local view's share of the image.", panel=VIEWS
    )
    local_crops_number: int = setting(8, "Number of local views; 0: no multi-crop.", panel=VIEWS)
    jitter: tuple[float, float, float, float] = setting(
        (0.4, 0.4, 0.2, 0.1),
        "Strength of brightness, contrast, saturation and hue jitter.",
        panel=VIEWS,
    )
    jitter_prob: float = setting(0.8, "Probability of colour jitter.", panel=VIEWS)
    grayscale_prob: float = setting(0.2, "Probability of a grey view.", panel=VIEWS)
    blur_prob: tuple[float, float, float] = setting(
        (1.0, 0.1, 0.5), "Probability of blur in global 1, global 2, local views.", panel=VIEWS
    )
    solarize_prob: float = setting(0.2, "Probability of solarising global 2.", panel=VIEWS)
    augment_ramp: float = setting(
        0.0, "Share of the run over which the colours grow from --augment-start.", panel=VIEWS
    )
    augment_start: tuple[float, float, float, float, float, float] = setting(
        (0.32, 0.32, 0.16, 0.05, 0.1, 0.0),
        "Brightness, contrast, saturation, hue, grey and solarise at the start of that ramp.",
        panel=VIEWS,
    )
    final_size: tuple[int, int] | None = setting(
        None, "Sides of global and local views in the last part of the run.", panel=VIEWS
    )
    final_share: float = setting(0.1, "Share of the run that --final-size covers.", panel=VIEWS)
    views: Literal["auto", "cpu", "gpu"] = setting(
        "auto",
        "Where views are made: cpu, by the processes that load images; gpu, on the training "
        "device, in batches; auto: gpu on CUDA. They differ by rounding, and so does the run.",
        panel=VIEWS,
    )
    mean: tuple[float, ...] = setting(
        IMAGENET_MEAN,
        "Mean of each channel, or one for all; default ImageNet's, unless 3 channels the mean of "
        "these.",
        panel=VIEWS,
        metavar="NUMBERS",
    )
    std: tuple[float, ...] = setting(
        IMAGENET_STD,
        "Standard deviation of each channel, or one for all.",
        panel=VIEWS,
        metavar="NUMBERS",
    )

    device: str = setting("auto", "auto, cpu, cuda, cuda:N or mps.", panel=RUN)
    precision: Literal["auto", "fp32", "bf16", "fp16"] = setting(
        "auto",
        "auto: bf16 where the hardware multiplies it, else fp32; fp16 uses a gradient scaler.",
        panel=RUN,
    )
    gpus: str = setting(
        "all",
        "GPUs of this machine to use, one process each: all or a number. With --device cpu a "
        "number of processes.",
        panel=RUN,
        metavar="N",
    )
    timeout: float = setting(
        30.0, "Minutes after which processes give up on one that does not answer.", panel=RUN
    )
    compress_gradients: bool = setting(
        False, "Send gradients between processes as bf16: half the traffic.", panel=RUN, switch=True
    )
    compile: bool = setting(
        False, "torch.compile the networks; for long runs.", panel=RUN, switch=True
    )
    cuda_graph: bool = setting(
        False,
        "On one GPU: record a step once and replay it, so that the GPU need not wait for Python. "
        "New, and not yet tried on every network.",
        panel=RUN,
        switch=True,
    )
    checkpoint_activations: bool = setting(
        False,
        "Recompute activations in the backward pass: less memory, slower.",
        panel=RUN,
        switch=True,
    )
    workers: int = setting(
        10, "Processes that load images, per GPU, together at most one per core.", panel=RUN
    )
    seed: int = setting(0, "Seed of everything random.", panel=RUN)
    save_every: int | None = setting(
        None, "Steps between checkpoints, beside the one of each epoch.", panel=RUN
    )
    keep: int = setting(
        2, "Newest checkpoints that stay, in case the last one gets damaged.", panel=RUN
    )
    keep_every: int = setting(
        20, "Epochs between checkpoints that are kept for good; 0: none.", panel=RUN
    )
    log_every: int = setting(10, "Steps between lines of log.jsonl.", panel=RUN)
    max_unreadable: float = setting(
        0.01,
        "Stop when more than this share of the first 1,000 images is unreadable; 1: never.",
        panel=RUN,
    )
    watch: int = setting(
        6, "Photos whose attention is kept at each epoch, for `dino report`; 0: none.", panel=RUN
    )
    eval_data: Path | None = setting(
        None, "Folder with classes for k-NN during training.", panel=RUN, metavar="DIR"
    )
    eval_every: int = setting(1, "Epochs between those evaluations.", panel=RUN)
