"""What `dino embed` was asked for: checked, and joined with what the model brings."""

from dataclasses import replace
from typing import Any, cast

from dino_cli.config.embed import EmbedConfig
from dino_cli.config.setting import parse_size
from dino_cli.config.shared import Preprocessing, TransformOptions
from dino_cli.core.network.features import GRID_KINDS, KINDS, Kind
from dino_cli.errors import UsageError
from dino_cli.store.embeddings.formats import SUFFIXES, refuse_grids
from dino_cli.tasks.model import Model

__all__ = ["check_options", "parse_kinds", "transform_of"]


def check_options(config: EmbedConfig) -> tuple[Kind, ...]:
    """The kinds of features. Raises `UsageError` for what cannot be meant."""
    if config.output.suffix not in SUFFIXES:
        raise UsageError(
            f"{str(config.output)!r} has no suffix of a format for features",
            f"use {', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]}: --output feats.npy",
        )
    if not config.paths:
        raise UsageError("no pictures given", "name some: dino embed photos/ -o feats.npy")
    for name, on in (("append", config.append), ("resume", config.resume)):
        if on and config.overwrite:
            raise UsageError(f"--{name} and --overwrite exclude each other", "leave one out")
    kinds = parse_kinds(config.features)
    refuse_grids(config.output, kinds, GRID_KINDS)
    if config.output.suffix != ".parquet":
        for name, on in (("thumbnails", config.thumbnails), ("project", config.project)):
            if on:
                raise UsageError(
                    f"--{name} is for tables, which {str(config.output)!r} is not",
                    "use --output feats.parquet",
                )
    if config.image_size is not None:
        if config.resize is not None or config.crop is not None:
            raise UsageError(
                "--image-size replaces --resize and --crop", "give it alone, or those alone"
            )
        parse_size(config.image_size)
    return kinds


def parse_kinds(text: str) -> tuple[Kind, ...]:
    """ "cls,patch" → ("cls", "patch"). Raises `UsageError`."""
    kinds = [part.strip() for part in text.split(",")]
    for kind in kinds:
        if kind not in KINDS:
            raise UsageError(
                f"{kind!r} is none of the features", f"use {', '.join(KINDS)}, or several by comma"
            )
    return cast(tuple[Kind, ...], tuple(dict.fromkeys(kinds)))


def transform_of(config: EmbedConfig, model: Model) -> Preprocessing:
    """The model's preprocessing with what the person changed. Raises `UsageError`."""
    p: Preprocessing = replace(model.preprocessing, exif=config.exif)
    if config.image_size is None:
        return replace(p, **_overrides(config, p, model))
    patch_size = model.backbone.patch_size
    return replace(p, resize=model.input_size(config.image_size), crop=None, multiple=patch_size)


def _overrides(options: TransformOptions, p: Preprocessing, model: Model) -> dict[str, Any]:
    changed = {
        name: size
        for name, size in (("resize", options.resize), ("crop", options.crop))
        if size is not None
    }
    for name, size in changed.items():
        if size < 1:
            raise UsageError(f"--{name} {size} is not a positive number", f"use --{name} 224")
    crop = changed.get("crop", min(p.cut) if p.cut else None)
    resize = changed.get("resize", p.resize)
    if changed and crop is not None and isinstance(resize, int) and crop > resize:
        raise UsageError(
            f"the crop of {crop} pixels is larger than the resized short side of {resize}",
            f"use --resize {crop} or more, or --crop {resize} or less",
        )
    patch_size = model.backbone.patch_size
    if "crop" in changed and model.backbone.has_blocks and changed["crop"] % patch_size:
        fits = max(patch_size, changed["crop"] // patch_size * patch_size)
        raise UsageError(
            f"--crop {changed['crop']} is not a multiple of the patch size {patch_size}",
            f"use --crop {fits}",
        )
    return changed
