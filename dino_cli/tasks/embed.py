"""Embed pictures: one feature vector per file, written as it comes."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from dino_cli.config.embed import EmbedConfig
from dino_cli.config.shared import ComputeOptions, ModelOptions, Preprocessing, TransformOptions
from dino_cli.core.backbone import FeatureKind
from dino_cli.data.images import ImageFile, find_images
from dino_cli.data.loader import image_batches
from dino_cli.data.preprocess import normalize
from dino_cli.errors import TaskError, UsageError
from dino_cli.progress import Reporter
from dino_cli.store.embeddings import EmbeddingsWriter, embeddings_paths, writing
from dino_cli.store.tables import check_targets, skipped_path, told, write_skipped
from dino_cli.tasks.model import Model, open_model

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["Embedded", "embed", "embed_files", "model_facts"]

SUFFIXES = (".npy",)


def embed(config: EmbedConfig, reporter: Reporter) -> dict[str, Any]:
    """Write the features of all pictures, with their paths and what made them.

    Returns count, dim, skipped, seconds, images_per_second, output and skipped_list.
    """
    check_output(config.output, overwrite=config.overwrite)
    if not config.paths:
        raise UsageError("no pictures given", "name some: dino embed photos/ -o feats.npy")
    files = find_images(config.paths, reporter=reporter)
    model = open_model(config, reporter)
    p = transform_of(config, model)

    def metadata(writer: EmbeddingsWriter) -> dict[str, Any]:
        return {
            **model.identity,
            **model_facts(config),
            "preprocessing": asdict(p),
            "features": config.features,
            "normalize": config.normalize,
            "dim": writer.dim,
            "count": writer.count,
            "classes": sorted(writer.classes),
        }

    skipped: list[tuple[str, str]] = []
    started = time.monotonic()
    with writing(config.output, len(files), metadata) as writer:
        for batch in embed_files(
            files, model, p, config, reporter, kind=config.features, strict=config.strict
        ):
            skipped += batch.skipped
            if len(batch.features):
                rows = [(file.path.as_posix(), file.label) for file in batch.files]
                features = unit(batch.features) if config.normalize else batch.features
                writer.append(features, rows)
        if not writer.count:
            raise nothing_read(skipped)
        with told(skipped_path(config.output)):
            skipped_list = write_skipped(config.output, skipped)
    seconds = time.monotonic() - started
    return {
        "count": writer.count,
        "dim": writer.dim,
        "skipped": len(skipped),
        "seconds": round(seconds, 3),
        "images_per_second": round(writer.count / seconds, 2),
        "output": str(config.output),
        "skipped_list": str(skipped_list) if skipped_list else None,
    }


def check_output(output: "Path", *, overwrite: bool) -> None:
    """Raises `UsageError` for a suffix of no format, `TaskError` for what stands in the way."""
    if output.suffix not in SUFFIXES:
        raise UsageError(
            f"{str(output)!r} has no suffix of a format for features",
            f"use {' or '.join(SUFFIXES)}: --output feats.npy",
        )
    check_targets([*embeddings_paths(output), skipped_path(output)], overwrite=overwrite)


def transform_of(config: EmbedConfig, model: Model) -> Preprocessing:
    """The model's preprocessing with what the person changed. Raises `UsageError`."""
    p: Preprocessing = model.preprocessing
    return replace(p, exif=config.exif, **overrides(config, p, model))


def overrides(options: TransformOptions, p: Preprocessing, model: Model) -> dict[str, Any]:
    changed = {
        name: size
        for name, size in (("resize", options.resize), ("crop", options.crop))
        if size is not None
    }
    for name, size in changed.items():
        if size < 1:
            raise UsageError(f"--{name} {size} is not a positive number", f"use --{name} 224")
    crop = changed.get("crop", p.crop)
    resize = changed.get("resize", p.resize)
    if changed and crop is not None and isinstance(resize, int) and crop > resize:
        raise UsageError(
            f"the crop of {crop} pixels is larger than the resized short side of {resize}",
            f"use --resize {crop} or more, or --crop {resize} or less",
        )
    patch = model.backbone.patch_size
    if "crop" in changed and model.backbone.has_attention and changed["crop"] % patch:
        fits = max(patch, changed["crop"] // patch * patch)
        raise UsageError(
            f"--crop {changed['crop']} is no multiple of the patch size {patch}",
            f"use --crop {fits}",
        )
    return changed


def model_facts(options: ModelOptions) -> dict[str, Any]:
    """What else decides which network is read from the same weights; for the .json."""
    return {
        "checkpoint_key": options.checkpoint_key,
        "arch": options.arch,
        "patch_size": options.patch_size,
        "heads": options.heads,
    }


@dataclass(frozen=True)
class Embedded:
    """One batch: features, float32 (B, D), of B files; (path, reason) of the unreadable ones."""

    features: NDArray[np.float32]
    files: list[ImageFile]
    skipped: list[tuple[str, str]]


def embed_files(
    files: Sequence[ImageFile],
    model: Model,
    p: Preprocessing,
    compute: ComputeOptions,
    reporter: Reporter,
    *,
    kind: FeatureKind = "cls",
    strict: bool = False,
) -> Iterator[Embedded]:
    """Features of the readable files, in order. Memory does not grow with their number.

    strict: raise `TaskError` for the first unreadable file. Also raises it for features that are
    not finite and for a batch that does not fit the device's memory.
    """
    batches = image_batches(files, p, batch_size=compute.batch_size, workers=compute.workers)
    reporter.stage("embedding", len(files))
    for batch in batches:
        skipped = [(files[i].path.as_posix(), reason) for i, reason in batch.failures]
        if skipped and strict:
            raise TaskError(
                f"cannot read {skipped[0][0]!r}: {skipped[0][1]}", "repair it or leave out --strict"
            )
        features = np.empty((0, 0), np.float32)
        if batch.indices:
            with sentences(compute.batch_size), model.autocast(), torch.inference_mode():
                features = (
                    model.backbone.features(normalize(batch.images, p, model.device), kind)
                    .cpu()
                    .numpy()
                )
            if not np.isfinite(features).all():
                raise TaskError(
                    f"features in {model.precision} are not finite", "use --precision fp32"
                )
        yield Embedded(features, [files[i] for i in batch.indices], skipped)
        reporter.advance(len(batch.indices) + len(skipped))
    reporter.finish()


def nothing_read(skipped: Sequence[tuple[str, str]]) -> TaskError:
    """The error for no readable file at all, with the first reason."""
    path, reason = skipped[0]
    many = "the file" if len(skipped) == 1 else f"none of the {len(skipped)} files"
    can = "cannot" if len(skipped) == 1 else "can"
    return TaskError(f"{many} {can} be read as a picture ({path!r}: {reason})", "check the files")


@contextmanager
def sentences(batch_size: int) -> Iterator[None]:
    """Errors of the forward pass that a person can do something about."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise TaskError(
            f"a batch of {batch_size} pictures does not fit the device's memory",
            f"use --batch-size {max(1, batch_size // 2)}",
        ) from None
    except ValueError as error:  # the backbone has no such features
        raise UsageError(str(error), "use --features cls") from None


def unit(features: NDArray[np.float32]) -> NDArray[np.float32]:
    scaled: NDArray[np.float32] = F.normalize(torch.from_numpy(features), dim=1).numpy()
    return scaled
