"""The map as a folder of static files to walk about in."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

from dino_cli.config.map import MapConfig
from dino_cli.config.values import counted
from dino_cli.progress import Reporter
from dino_cli.store.atlas import SITE_FILES, check_earlier, export_site, require_atlas, write_table
from dino_cli.store.embeddings.formats import is_utf8
from dino_cli.store.embeddings.parquet import Projection
from dino_cli.store.embeddings.reading import Embeddings
from dino_cli.store.writing.staging import stage_results
from dino_cli.store.writing.targets import check_free, explain_errors
from dino_cli.tasks.map.pictures import all_thumbnails, missing_remark
from dino_cli.tasks.projection import neighbors_of

__all__ = ["check_site", "make_site"]


def check_site(config: MapConfig) -> None:
    """Raises `TaskError` for what stands in the way, before any long work."""
    require_atlas()
    check_free(config.output, SITE_FILES, overwrite=config.overwrite)
    check_earlier(config.output)


def make_site(
    config: MapConfig, export: Embeddings, projected: Projection, reporter: Reporter
) -> int | None:
    """Write the site; how many pictures it shows, None without thumbnails."""
    if not projected.neighbors.shape[1]:
        projected = Projection(projected.places, *neighbors_of(export.features))
    count, shown = len(export.paths), 0

    def read() -> Iterator[bytes | None]:
        nonlocal shown
        for content in all_thumbnails(export, reporter):
            shown += content is not None
            yield content

    with tempfile.TemporaryDirectory(prefix="dino-map-") as scratch:
        table = Path(scratch, "pictures.parquet")
        reporter.stage("reading pictures" if config.thumbnails else "writing", count)
        with explain_errors(table, "make room, or set TMPDIR to another folder"):
            pictures = read() if config.thumbnails else None
            write_table(table, export.paths, export.labels, projected, pictures)
        reporter.finish()
        if odd := sum(not is_utf8(path) for path in export.paths):
            which = counted(odd, "path is", "paths are")
            reporter.remark(f"{which} not valid UTF-8: the site shows \\xNN for such bytes")
        if config.thumbnails:
            missing_remark(count - shown, count, reporter)
        reporter.stage("Embedding Atlas exports")
        with stage_results(config.output, SITE_FILES) as stage:
            export_site(
                table,
                stage,
                images=shown > 0,
                neighbors=projected.neighbors.shape[1] > 0,
                labelled=any(export.labels),
            )
        reporter.finish()
    return shown if config.thumbnails else None
