"""The options of `dino bench views|step|train|embed|knn|attention`."""

from dataclasses import dataclass
from typing import Literal

from dino_cli.config.setting import setting

__all__ = [
    "BenchAttentionConfig",
    "BenchEmbedConfig",
    "BenchKnnConfig",
    "BenchOptions",
    "BenchStepConfig",
    "BenchTrainConfig",
    "BenchViewsConfig",
]

Precision = Literal["auto", "fp32", "bf16", "fp16"]
PRECISION_HELP = "Of ours; the original's way keeps its own: fp32, in training on CUDA fp16."


@dataclass(frozen=True, kw_only=True)
class BenchOptions:
    """How long, and where."""

    seconds: float = setting(
        20.0, "Approximate measuring time in seconds; at least three pairs, whatever they take."
    )
    device: str = setting("auto", "auto, cpu, cuda, cuda:N or mps.")


@dataclass(frozen=True, kw_only=True)
class BenchViewsConfig(BenchOptions):
    """`dino bench views`."""

    photos: int = setting(8, "Photos in one measurement, of 500 x 375 pixels.")
    batch_size: int = setting(64, "Photos rendered together, where the device is not a CPU.")


@dataclass(frozen=True, kw_only=True)
class BenchStepConfig(BenchOptions):
    """`dino bench step`."""

    arch: Literal["vit_tiny", "vit_small", "vit_base"] = setting("vit_tiny", "The network.")
    patch_size: int = setting(16, "Side of a patch in pixels.")
    out_dim: int = setting(4096, "Prototypes K.")
    batch_size: int = setting(4, "Images in a step, of 2 x 224 + 8 x 96 pixels.")
    precision: Precision = setting("auto", PRECISION_HELP)
    compile: bool = setting(False, "torch.compile our networks.")
    cuda_graph: bool = setting(False, "On CUDA, record our step and replay it.", switch=True)


@dataclass(frozen=True, kw_only=True)
class BenchTrainConfig(BenchStepConfig):
    """`dino bench train`: the step of `dino bench step`, fed from files."""

    arch: Literal["vit_tiny", "vit_small", "vit_base"] = setting("vit_small", "The network.")
    out_dim: int = setting(65_536, "Prototypes K.")
    batch_size: int = setting(64, "Images in a step, of 2 x 224 + 8 x 96 pixels.")
    photos: int = setting(
        65_536, "JPEG files of 500 x 375 pixels; a checkpoint is written each time all were seen."
    )
    workers: int = setting(10, "Processes that load images, at most one per core; of both ways.")
    views: Literal["auto", "cpu", "gpu"] = setting("auto", "Where ours makes its views.")


@dataclass(frozen=True, kw_only=True)
class BenchEmbedConfig(BenchOptions):
    """`dino bench embed`."""

    arch: Literal["vit_tiny", "vit_small", "vit_base"] = setting("vit_small", "The network.")
    patch_size: int = setting(16, "Side of a patch in pixels.")
    photos: int = setting(128, "JPEG files in one measurement; of more, the others are copies.")
    megapixels: float = setting(0.1875, "Of each photo, four to three; 0.1875 is 500 x 375.")
    batch_size: int = setting(32, "Images in one forward pass.")
    workers: int = setting(8, "Processes that decode, at most one per core.")
    precision: Precision = setting("auto", PRECISION_HELP)


@dataclass(frozen=True, kw_only=True)
class BenchKnnConfig(BenchOptions):
    """`dino bench knn`."""

    queries: int = setting(1000, "Query vectors.")
    rows: int = setting(50_000, "Vectors of the index.")
    dim: int = setting(384, "Features of a vector.")
    k: int = setting(20, "Neighbours that vote.")
    classes: int = setting(1000, "How many classes the drawn labels have.")


@dataclass(frozen=True, kw_only=True)
class BenchAttentionConfig(BenchOptions):
    """`dino bench attention`."""

    arch: Literal["vit_tiny", "vit_small", "vit_base"] = setting("vit_small", "The network.")
    patch_size: int = setting(16, "Side of a patch in pixels.")
    photos: int = setting(4, "JPEG files in one measurement, of 500 x 375 pixels.")
    image_size: int = setting(480, "Both sides of the network's input in pixels.")
    precision: Precision = setting("auto", PRECISION_HELP)
