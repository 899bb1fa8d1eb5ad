"""Export weights: loaded once, written as another program opens them, with a card beside."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from dino_cli.config.export import ExportConfig
from dino_cli.core.network.backbone import Backbone
from dino_cli.core.network.tracing import Exportable
from dino_cli.errors import TaskError, UsageError
from dino_cli.progress import Reporter
from dino_cli.store.export.card import Card, Layout
from dino_cli.store.export.files import halved, write_huggingface, write_reference, write_timm
from dino_cli.store.export.huggingface import preprocessor_config
from dino_cli.store.export.onnx_file import check_onnx, require_onnx, write_onnx
from dino_cli.store.weights.digests import sha256_of
from dino_cli.store.weights.empty import filled_network
from dino_cli.store.weights.huggingface import read_json
from dino_cli.store.weights.load import Weights, load
from dino_cli.store.weights.registry import entries
from dino_cli.store.writing.atomic import atomic_write
from dino_cli.store.writing.locks import lock_output
from dino_cli.store.writing.staging import stage_results
from dino_cli.store.writing.targets import check_files, check_free, explain_errors, keep_inputs

__all__ = ["export", "training_beside"]

LAYOUTS: dict[str, Layout] = {
    ".pth": "reference",
    ".safetensors": "timm",
    ".onnx": "onnx",
    "": "huggingface",
}
FOLDER_FILES = ("config.json", "preprocessor_config.json", "model.safetensors", "README.md")
TOLD = ("epochs", "batch_size", "lr", "out_dim", "local_crops_number", "global_size", "seed")


def export(config: ExportConfig, reporter: Reporter) -> dict[str, Any]:
    """Write the weights and their card. Returns layout, output, card, bytes,
    sha256, and the options that `dino` needs to read the file as it was.

    Raises `UsageError` for an unknown suffix or an option that the layout has no use for, and
    `TaskError` when the output is in the way or the layout has no place for the network.
    """
    layout = _layout(config)
    with lock_output(config.output):
        return _export(config, layout, reporter)


def _export(config: ExportConfig, layout: Layout, reporter: Reporter) -> dict[str, Any]:
    if layout == "huggingface":
        if "train" in (read_json(config.output / "config.json") or {}):
            raise TaskError(
                f"{str(config.output)!r} is a run of `dino train`, which cannot go on without its"
                " config.json",
                "choose another -o",
            )
        check_free(config.output, FOLDER_FILES, overwrite=config.overwrite)
    else:
        check_files([config.output, _card_path(config)], overwrite=config.overwrite)
        given = [path for path in (config.weights, config.source) if path is not None]
        keep_inputs([config.output], map(Path, given))
    if layout == "onnx":
        require_onnx()
    weights = _load(config, reporter)
    card = Card(
        name=weights.name,
        file=config.output,
        layout=layout,
        architecture=weights.architecture,
        parameters=sum(t.numel() for t in weights.tensors.values() if t.is_floating_point()),
        preprocessing=weights.preprocessing,
        source=weights.source,
        source_sha256=weights.sha256,
        sha256="",
        licence=_licence(config, weights),
        half=config.half,
        features=config.features,
        attention=config.attention,
        trained=training_beside(Path(weights.source)) if _is_local(config) else None,
    )
    reporter.remark(f"writing {weights.name} to {config.output}")
    with _places(config, layout) as (target, card_target):
        if layout == "reference":
            write_reference(weights, target, half=config.half)
        elif layout == "timm":
            write_timm(weights, target, half=config.half)
        elif layout == "huggingface":
            write_huggingface(weights, target, half=config.half)
        else:
            card = _onnx(weights, target, card, config, reporter)
        file = target / "model.safetensors" if layout == "huggingface" else target
        size, digest = file.stat().st_size, sha256_of(file)
        text = replace(card, sha256=digest).text()
        card_target.write_text(text, encoding="utf-8", errors="surrogateescape")
    return {
        "layout": layout,
        "output": str(config.output),
        "card": str(_card_path(config)),
        "model": weights.name,
        "bytes": size,
        "sha256": digest,
        "options": card.reading_options(),
    }


def _layout(config: ExportConfig) -> Layout:
    suffix = config.output.suffix.lower()
    if suffix not in LAYOUTS or config.output.name in ("", ".."):
        raise UsageError(
            f"{str(config.output)!r} has no suffix of a layout",
            "use .pth (the original's), .safetensors (timm), .onnx, or none for a Hugging Face"
            " folder",
        )
    layout = LAYOUTS[suffix]
    if layout != "onnx":
        for flag, given in (
            ("--attention", config.attention),
            (f"--features {config.features}", config.features != "cls"),
        ):
            if given:
                raise UsageError(f"{flag} is for .onnx, not {suffix or 'a folder'}", "leave it out")
    if config.source is not None and config.weights is not None:
        raise UsageError(
            f"both {config.source!r} and --weights {str(config.weights)!r} given", "name one source"
        )
    return layout


def _load(config: ExportConfig, reporter: Reporter) -> Weights:
    model, path = config.model, config.weights
    if config.source is not None:
        there = Path(config.source).expanduser()
        model, path = (model, there) if _is_local(config) else (config.source, None)
        if path is None and ((there.suffix in LAYOUTS and there.suffix) or there.is_absolute()):
            raise TaskError(f"there are no weights at {config.source!r}", "check the path")
    return load(
        model=model,
        weights=path,
        checkpoint_key=config.checkpoint_key,
        arch=config.arch,
        patch_size=config.patch_size,
        heads=config.heads,
        offline=config.offline,
        reporter=reporter,
    )


def _is_local(config: ExportConfig) -> bool:
    """Whether a path was given, and no name of a model."""
    if config.source is None:
        return config.weights is not None
    return Path(config.source).expanduser().exists()


@contextmanager
def _places(config: ExportConfig, layout: Layout) -> Iterator[tuple[Path, Path]]:
    """Where to write the weights and the card, which take their names together at the end."""
    if layout == "huggingface":
        with stage_results(config.output, FOLDER_FILES) as stage:
            yield stage, stage / "README.md"
        return
    new = [path for path in (config.output, _card_path(config)) if not path.exists()]
    try:
        with (
            explain_errors(config.output),
            atomic_write(_card_path(config)) as card,
            atomic_write(config.output) as target,
        ):
            yield target, card
    except BaseException:
        for path in new:  # one of the two may have taken its name
            with suppress(OSError):
                path.unlink(missing_ok=True)
        raise


def _card_path(config: ExportConfig) -> Path:
    if not config.output.suffix:
        return config.output / "README.md"
    return config.output.with_name(f"{config.output.name}.md")


def _onnx(
    weights: Weights, target: Path, card: Card, config: ExportConfig, reporter: Reporter
) -> Card:
    """Write and check the graph; the card with what was found."""
    if config.half:
        halved(weights.tensors)  # refuses what half precision cannot hold
    net = filled_network(weights.architecture, weights.tensors)
    backbone = Backbone(net)
    if config.attention and not backbone.has_attention:
        raise UsageError(
            f"{weights.name} has no attention of a class token", "leave --attention out"
        )
    if config.features != "cls" and not backbone.has_blocks:
        raise UsageError(f"{weights.name} has no patch tokens", "use --features cls")
    patch_size, channels = backbone.patch_size, weights.architecture.in_chans
    native = max(min(weights.preprocessing.cut or (224,)) // patch_size, 1) * patch_size
    sizes = [(patch_size * 4, patch_size * 6), (patch_size * 7, patch_size * 3)]
    reporter.stage("tracing and checking the graph", None, "steps")
    module = Exportable(net, kind=config.features, attention=config.attention)
    any_size = write_onnx(
        module,
        target,
        half=config.half,
        patch_size=patch_size,
        native=native,
        channels=channels,
        metadata={
            "model": weights.name,
            "weights_sha256": weights.sha256,
            "patch_size": str(patch_size),
            "features": config.features,
            "preprocessing": json.dumps(preprocessor_config(weights.preprocessing)),
        },
    )
    if any_size:
        sizes.append((native, native))
    else:
        sizes = [(native, native)] * 2
        reporter.remark(f"{weights.name} takes images of {native}x{native} only, in ONNX too")
    difference = check_onnx(module, target, sizes, half=config.half, channels=channels)
    reporter.finish()
    return replace(card, any_size=any_size, difference=difference)


def _licence(config: ExportConfig, weights: Weights) -> str:
    known = entries().get(weights.name)
    return known.licence if known is not None and not _is_local(config) else ""


def training_beside(source: Path) -> Mapping[str, Any] | None:
    """Settings of the run that the weights are from, without any path of this machine."""
    folder = source if source.is_dir() else source.parent
    train = (read_json(folder / "config.json") or {}).get("train")
    return {key: train[key] for key in TOLD if key in train} if isinstance(train, dict) else None
