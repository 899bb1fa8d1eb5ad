"""Every option of every command: its name, default, help and reason, written once, here.

Each command has one frozen dataclass. `cli.options` turns its fields into command-line options,
`tasks` receive the dataclass, outputs keep it as JSON. Standard library only, so that
`dino --help` need not import torch.
"""

from collections.abc import Mapping
from dataclasses import MISSING, Field, asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from dino_cli.errors import UsageError

__all__ = [
    "IMAGENET_MEAN",
    "IMAGENET_STD",
    "AttentionConfig",
    "ComputeOptions",
    "DemoConfig",
    "EmbedConfig",
    "ImageOptions",
    "KnnConfig",
    "ModelOptions",
    "Preprocessing",
    "TransformOptions",
    "WeightsDownloadConfig",
    "WeightsListConfig",
    "WeightsPathConfig",
    "to_json",
]

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def setting(
    default: Any = MISSING,
    help: str = "",
    *,
    flag: str | None = None,
    panel: str | None = None,
    argument: bool = False,
    metavar: str | None = None,
    switch: bool = False,
) -> Any:
    """A field that is also a command-line option (or a positional argument).

    `flag` replaces the name made from the field's; `panel` groups options in the help; `switch`
    gives a flag that is off by default a --no- form, for what a file or preset may switch on.
    """
    metadata = {
        "help": help,
        "flag": flag,
        "panel": panel,
        "argument": argument,
        "metavar": metavar,
        "switch": switch,
    }
    return field(default=default, metadata=metadata)


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """How a picture becomes the model's input; read from the model, written into every output.

    Applied in this order: EXIF rotation, RGB, resize, crop or trim, scale to [0, 1], normalise.

    resize: short side in pixels (the aspect stays), or (height, width) stretched; None: as it is.
    crop: side of the centred square cut out afterwards, in pixels; None: no crop.
    interpolation: PIL's filter of the resize, antialiased.
    multiple: trim bottom and right to whole multiples of this many pixels; 1: no trim.
    mean, std: per channel, of values in [0, 1].
    exif: turn the picture as its EXIF orientation says.
    """

    resize: int | tuple[int, int] | None = 256
    crop: int | None = 224
    interpolation: Literal["bicubic", "bilinear", "lanczos", "nearest"] = "bicubic"
    multiple: int = 1
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    exif: bool = True


MODEL_PANEL = "Model"
COMPUTE_PANEL = "Computing"
IMAGE_PANEL = "Images"


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
class ImageOptions:
    """How pictures are read."""

    exif: bool = setting(
        True,
        "Turn pictures as their EXIF tag says; --no-exif equals the original code.",
        panel=IMAGE_PANEL,
    )
    strict: bool = setting(
        False, "An unreadable file ends the command instead of being skipped.", panel=IMAGE_PANEL
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


@dataclass(frozen=True, kw_only=True)
class EmbedConfig(ModelOptions, ComputeOptions, ImageOptions, TransformOptions):
    """`dino embed`: one feature vector per picture."""

    paths: tuple[str, ...] = setting(
        (),
        "Images, folders (searched recursively), .txt lists, or - for a list on stdin.",
        argument=True,
        metavar="PATH...",
    )
    output: Path = setting(
        Path("feats.npy"),
        "Where the features go: float32 (N, D), with .csv (paths, labels) and .json beside it.",
        flag="--output,-o",
    )
    features: Literal["cls", "mean", "cls+mean"] = setting(
        "cls", "cls: the class token, as the paper; mean: of the patch tokens; or both."
    )
    normalize: bool = setting(False, "Scale every vector to length 1.")
    overwrite: bool = setting(False, "Replace an existing output.")


@dataclass(frozen=True, kw_only=True)
class KnnConfig(ModelOptions, ComputeOptions, ImageOptions):
    """`dino knn`: weighted nearest neighbours over exported features."""

    queries: tuple[str, ...] = setting(
        (),
        "Images, folders, lists, or one feats.npy. None: leave-one-out over the index.",
        argument=True,
        metavar="QUERY...",
    )
    index: Path = setting(Path("train_feats.npy"), "Features made by `dino embed`, with labels.")
    k: tuple[int, ...] = setting(
        (10, 20, 100, 200), "Neighbours that vote; may repeat. 20 usually works best.", flag="-k"
    )
    temperature: float = setting(0.07, "Votes weigh exp(cosine / temperature).")
    output: Path | None = setting(
        None,
        "Predictions as .csv: path, predicted, probability, label, neighbours.",
        flag="--output,-o",
    )
    neighbors: int = setting(5, "How many nearest neighbours the predictions file names.")
    overwrite: bool = setting(False, "Replace an existing output.")


@dataclass(frozen=True, kw_only=True)
class AttentionConfig(ModelOptions, ComputeOptions, ImageOptions):
    """`dino attention`: last-block CLS attention as arrays, heat maps and masks."""

    images: tuple[str, ...] = setting(
        (),
        "Images, folders (mirrored below the output), .txt lists, or - for a list on stdin.",
        argument=True,
        metavar="IMAGE...",
    )
    output: Path = setting(Path("attention"), "Folder for the results.", flag="--output,-o")
    head: str = setting("all", "all, mean, best, or head numbers such as 0,3.")
    image_size: str | None = setting(
        None,
        "480: short side, aspect kept. 480x480: height x width, stretched, as the original."
        " Default: the short side that suits the model, 480 for DINO.",
        metavar="SIZE",
    )
    threshold: float = setting(
        0.6, "Masks keep the fewest patches that hold this share of the attention."
    )
    masks: Literal["attention", "seeded", "cut"] = setting(
        "attention",
        "attention: of each head, as the paper. seeded: one per image, of the patches whose keys"
        " resemble the attended ones; far better. cut: one per image, by TokenCut.",
    )
    refine: Literal["none", "guided"] = setting(
        "none", "guided: fit masks to the photo's edges, in a few milliseconds."
    )
    batch_size: int = setting(
        8, "Images of one size in one forward pass.", panel=COMPUTE_PANEL
    )  # large images: more at once are no faster, and wait for each other
    workers: int = setting(
        8, "Threads that read and write pictures, at most one per core.", panel=COMPUTE_PANEL
    )
    overwrite: bool = setting(False, "Replace existing results.")


@dataclass(frozen=True, kw_only=True)
class DemoConfig(ModelOptions, ComputeOptions):
    """`dino demo`: a ViT that learned without labels finds objects, offline, in minutes."""

    output: Path = setting(Path("demo"), "Folder for the results.", flag="--output,-o")
    train: bool = setting(
        False,
        "Repeat the whole training from nothing, watching the heads; again: go on.",
    )
    seed: int = setting(0, "Seed of the drawings.")
    overwrite: bool = setting(False, "Replace an existing output; with --train, start anew.")
    images: Path | None = setting(
        None, "Only draw: write images/<class>/*.png and masks/<class>/*.png into this new folder."
    )
    count: int = setting(200, "How many images to draw with --images.")
    size: int = setting(192, "Side of the drawn images in pixels, with --images.")
    style: Literal["final", "early", "mixed"] = setting(
        "final", "Style of the drawings, with --images; early ones are for training."
    )
    model: str = setting(
        "dino_demo",
        "Which network to show; a released one needs the network once, and more minutes.",
        panel=MODEL_PANEL,
        metavar="NAME",
    )
    workers: int = setting(8, "Processes that draw, at most one per core.", panel=COMPUTE_PANEL)


@dataclass(frozen=True, kw_only=True)
class WeightsListConfig:
    """`dino weights list`: the models known by name."""


@dataclass(frozen=True, kw_only=True)
class WeightsPathConfig:
    """`dino weights path`: where a model's weights are on this disk."""

    name: str = setting(
        help="A name from `dino weights list`, a Hugging Face id, or a timm name.",
        argument=True,
        metavar="NAME",
    )


@dataclass(frozen=True, kw_only=True)
class WeightsDownloadConfig:
    """`dino weights download`: fetch weights before they are needed."""

    names: tuple[str, ...] = setting(
        (),
        "Names from `dino weights list`, Hugging Face ids, or timm names.",
        argument=True,
        metavar="NAME...",
    )
    to: Path | None = setting(
        None,
        "Also copy them into this folder, for --weights on a machine without a network.",
        metavar="DIR",
    )
    overwrite: bool = setting(False, "Replace copies that exist.")


def to_json(config: Any) -> dict[str, Any]:
    """A config dataclass as JSON-ready values: paths as strings, tuples as lists."""

    def plain(value: Any) -> Any:
        if isinstance(value, Path):
            return str(value)
        if isinstance(value, Mapping):
            return {key: plain(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [plain(item) for item in value]
        return value

    return {key: plain(value) for key, value in asdict(config).items()}


def options(config_type: type) -> tuple[Field[Any], ...]:
    """The fields of a config that are options or arguments, in the order of the help."""
    own_first = list(fields(config_type))
    inherited = {
        f.name
        for base in config_type.__mro__[1:]
        for f in getattr(base, "__dataclass_fields__", {}).values()
    }
    return tuple(sorted(own_first, key=lambda f: f.name in inherited))


def parse_size(text: str) -> int | tuple[int, int]:
    """ "480" → 480 (short side); "480x640" → (480, 640), height first. Raises `UsageError`."""
    parts = text.lower().split("x")
    if len(parts) in (1, 2) and all(p.isascii() and p.isdigit() and int(p) > 0 for p in parts):
        return int(parts[0]) if len(parts) == 1 else (int(parts[0]), int(parts[1]))
    raise UsageError(f"image size {text!r} is not a size", "write 480 or 480x640 (height x width)")
