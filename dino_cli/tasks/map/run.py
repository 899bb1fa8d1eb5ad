"""Embedded pictures on a plane: a still picture, or a site to walk about in."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image

from dino_cli.config.map import MapConfig
from dino_cli.data.decoding.pixel_limit import within_pixel_limit
from dino_cli.data.listing.contents import path_on_disk
from dino_cli.errors import TaskError, UsageError
from dino_cli.progress import Reporter
from dino_cli.store.embeddings.parquet import Projection, parquet_projection
from dino_cli.store.embeddings.reading import Embeddings, read_embeddings
from dino_cli.store.pictures.map_layout import entries_of, map_layout
from dino_cli.store.pictures.map_picture import draw_map as draw
from dino_cli.store.pictures.map_picture import legend_width
from dino_cli.store.writing.locks import lock_output
from dino_cli.store.writing.targets import check_files, explain_errors, keep_inputs
from dino_cli.tasks.map.pictures import missing_remark, read_pictures
from dino_cli.tasks.map.site import check_site, make_site
from dino_cli.tasks.projection import project

__all__ = ["draw_map"]

NARROWEST, WIDEST = 400, 12_000  # pixels


@within_pixel_limit
def draw_map(config: MapConfig, reporter: Reporter) -> dict[str, Any]:
    """Write the map of a feature file.

    Returns output, site (whether it is one), count, method (`pca` or `umap`), classes, thumbnails
    (how many pictures are shown; None without) and seconds. Raises `UsageError`, `TaskError`;
    after an error nothing new is left.
    """
    site = _is_site(config)
    started = time.monotonic()
    with lock_output(config.output):
        if site:
            check_site(config)
        else:
            check_files([config.output], overwrite=config.overwrite)
        export = read_embeddings(config.features)
        if not export.paths:
            raise TaskError(f"{str(config.features)!r} holds no pictures", "embed some first")
        keep_inputs([config.output], (path_on_disk(Path(path)) for path in export.paths))
        projected, method = _places(config, export, reporter, neighbors=site)
        shown: int | None
        if site:
            shown = make_site(config, export, projected, reporter)
        else:
            shown = _still(config, export, projected, method, reporter)
    return {
        "output": str(config.output),
        "site": site,
        "count": len(export.paths),
        "method": method,
        "classes": len({label for label in export.labels if label}),
        "thumbnails": shown,
        "seconds": round(time.monotonic() - started, 3),
    }


def _is_site(config: MapConfig) -> bool:
    """Whether a folder is asked for; checks the options that need no file."""
    suffix = config.output.suffix.lower()
    if suffix not in ("", ".png") and not config.output.is_dir():
        raise UsageError(
            f"a map is a .png or a folder, which {str(config.output)!r} is not",
            "use --output map.png or --output map/",
        )
    if not NARROWEST <= config.width <= WIDEST:
        raise UsageError(
            f"--width {config.width} is not between {NARROWEST} and {WIDEST} pixels",
            "use --width 2400",
        )
    return suffix != ".png"


def _places(
    config: MapConfig, export: Embeddings, reporter: Reporter, *, neighbors: bool
) -> tuple[Projection, str]:
    """Those that the file holds, unless another method is asked for."""
    if config.project == "auto" and config.features.suffix == ".parquet":
        own = parquet_projection(config.features)
        if own is not None:
            return own, str(export.metadata.get("projection", "pca"))
    return project(export.features, reporter, method=config.project, neighbors=neighbors)


def _still(
    config: MapConfig, export: Embeddings, projected: Projection, method: str, reporter: Reporter
) -> int | None:
    entries, colours = entries_of(export.labels)
    layout = map_layout(
        projected.places,
        config.width,
        legend=legend_width(entries, config.width),
        pictures=config.thumbnails,
    )
    pictures: Mapping[int, Image.Image] = {}
    if config.thumbnails:
        chosen = layout.chosen.tolist()
        reporter.stage("reading pictures", len(chosen))
        pictures = read_pictures(export, chosen, layout.side, reporter)
        reporter.finish()
        missing_remark(len(chosen) - len(pictures), len(chosen), reporter)
    count = len(export.paths)
    title = "1 picture" if count == 1 else f"{count:,} pictures"
    about = _subtitle(export, method) + ("" if layout.to_scale else " · not to scale")
    with explain_errors(config.output):
        draw(config.output, layout, title, about, entries, colours, pictures)
    return len(pictures) if config.thumbnails else None


def _subtitle(export: Embeddings, method: str) -> str:
    facts = export.metadata
    kind = str(facts.get("features", "cls"))
    of = f" of block {facts['layer']}" if "layer" in facts else ""
    return f"{facts.get('model', '')} · {kind} features{of} · {method.upper()} · {export.path.name}"
