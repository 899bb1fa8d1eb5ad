"""Options that several commands share: model, computing, pictures."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from dino_cli.config.setting import setting

__all__ = [
    "COMPUTE_PANEL",
    "IMAGENET_MEAN",
    "IMAGENET_STD",
    "IMAGE_PANEL",
    "MODEL_PANEL",
    "OUTPUT_PANEL",
    "VIDEO_PANEL",
    "ComputeOptions",
    "EvalNetworkOptions",
    "ImageOptions",
    "ListOptions",
    "ModelOptions",
    "NetworkOptions",
    "PixelOptions",
    "Preprocessing",
    "TransformOptions",
]

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """How a picture becomes the model's input; read from the model, written into every output.

    Applied in this order: EXIF rotation, RGB, resize, crop or trim, scale to [0, 1], normalise.

    resize: short side in pixels (the aspect stays), or (height, width) stretched; None: as it is.
    crop: side of the centred square cut out afterwards, in pixels, or (height, width): the resize
        then covers a rectangle of that shape, whose short side it names; None: no crop.
    interpolation: PIL's filter of the resize, antialiased.
    multiple: trim bottom and right to whole multiples of this many pixels; 1: no trim.
    mean, std: per channel, of values in [0, 1].
    exif: turn the picture as its EXIF orientation says.
    own_depth: not RGB but the file's own samples and channels, as many as means
    (`data.decoding.own_depth`).
    """

    resize: int | tuple[int, int] | None = 256
    crop: int | tuple[int, int] | None = 224
    interpolation: Literal["bicubic", "bilinear", "lanczos", "nearest"] = "bicubic"
    multiple: int = 1
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    exif: bool = True
    own_depth: bool = False

    @property
    def cut(self) -> tuple[int, int] | None:
        """Height and width of the crop."""
        return (self.crop, self.crop) if isinstance(self.crop, int) else self.crop


MODEL_PANEL = "Model"
COMPUTE_PANEL = "Computing"
IMAGE_PANEL = "Images"
OUTPUT_PANEL = "Results"
VIDEO_PANEL = "Videos"


@dataclass(frozen=True, kw_only=True)
class ModelOptions:
    """Which network: a name, or a file of weights."""

    model: str = setting(
        "dino_vits16",
        "Name of a released model (see `dino weights list`), a Hugging Face id, or a timm name.",
        panel=MODEL_PANEL,
        metavar="NAME",
    )
    weights: Path | None = setting(
        None,
        "Local weights instead of a name: .pth, .safetensors, .bin, or a `dino train` run folder.",
        panel=MODEL_PANEL,
        metavar="PATH",
    )
    checkpoint_key: Literal["teacher", "student"] = setting(
        "teacher",
        "Which network of a full checkpoint. The teacher is the better one (paper, figure 6).",
        panel=MODEL_PANEL,
    )
    arch: str | None = setting(
        None,
        "Architecture, when the weights do not tell (vit_tiny, vit_small, vit_base, a timm name).",
        panel=MODEL_PANEL,
    )
    patch_size: int | None = setting(
        None, "Patch size in pixels, when the weights do not tell.", panel=MODEL_PANEL
    )
    heads: int | None = setting(
        None, "Number of attention heads; else width / 64.", panel=MODEL_PANEL
    )
    offline: bool = setting(
        False, "Never ask the network, not even for a model given by name.", panel=MODEL_PANEL
    )


@dataclass(frozen=True, kw_only=True)
class ComputeOptions:
    """Where and how the arithmetic runs."""

    device: str = setting("auto", "auto, cpu, cuda, cuda:N or mps.", panel=COMPUTE_PANEL)
    precision: Literal["auto", "fp32", "bf16", "fp16"] = setting(
        "auto",
        "auto: the fastest that keeps a cosine of 0.999 with fp32 on this device.",
        panel=COMPUTE_PANEL,
    )
    batch_size: int = setting(32, "Images in one forward pass.", panel=COMPUTE_PANEL)
    workers: int = setting(
        8, "Processes that decode images, at most one per core; 0: none.", panel=COMPUTE_PANEL
    )
    compile: bool = setting(
        False,
        "torch.compile: pays from a few thousand images on.",
        panel=COMPUTE_PANEL,
        switch=True,
    )


@dataclass(frozen=True, kw_only=True)
class NetworkOptions(ModelOptions, ComputeOptions):
    """A network at work: which, where and how."""


@dataclass(frozen=True, kw_only=True)
class EvalNetworkOptions(NetworkOptions):
    """The same for evaluations, whose figures are compared with published ones."""

    precision: Literal["auto", "fp32", "bf16", "fp16"] = setting(
        "fp32",
        "fp32 as the originals; bf16 is faster, but figures move. auto: as in other commands.",
        panel=COMPUTE_PANEL,
    )


@dataclass(frozen=True, kw_only=True)
class PixelOptions:
    """How large a picture may be."""

    max_pixels: int | None = setting(
        None,
        "A picture of more pixels is not read: a small file can unpack to fill the memory"
        " (default: Pillow's limit, 89478485).",
        panel=IMAGE_PANEL,
    )


@dataclass(frozen=True, kw_only=True)
class ImageOptions(PixelOptions):
    """How pictures are read."""

    exif: bool = setting(
        True,
        "Turn pictures as their EXIF tag says, and decode JPEGs much larger than the model's input"
        " at a fraction of their size (attention in full); --no-exif equals the original code.",
        panel=IMAGE_PANEL,
    )
    strict: bool = setting(
        False, "An unreadable file ends the command instead of being skipped.", panel=IMAGE_PANEL
    )


@dataclass(frozen=True, kw_only=True)
class ListOptions:
    """How lists of pictures are read, .txt files and stdin."""

    null: bool = setting(
        False,
        "Lists are paths ended by NUL bytes, as find -print0 writes them, instead of lines.",
        flag="--null,-0",
        panel=IMAGE_PANEL,
    )


@dataclass(frozen=True, kw_only=True)
class TransformOptions:
    """Overrides of the model's own resize and crop."""

    resize: int | None = setting(
        None, "Short side in pixels before the crop (default: the model's, 256).", panel=IMAGE_PANEL
    )
    crop: int | None = setting(
        None, "Side of the centre crop in pixels (default: the model's, 224).", panel=IMAGE_PANEL
    )
