"""Small pictures of the rows of a feature file: those inside a .parquet, else read again."""

import io
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from PIL import Image

from dino_cli.data.decoding.thumbnails import SIDE, as_jpeg, small_picture
from dino_cli.progress import Reporter
from dino_cli.runtime import available_cores
from dino_cli.store.embeddings.parquet import parquet_thumbnails
from dino_cli.store.embeddings.reading import Embeddings

__all__ = ["all_thumbnails", "missing_remark", "read_pictures"]

AHEAD = 64  # pictures read before they are needed


def read_pictures(
    export: Embeddings, rows: Sequence[int], side: int, reporter: Reporter
) -> dict[int, Image.Image]:
    """Pictures of these rows, RGB, about `side` pixels at most; without those that are gone.

    Those inside the file are taken where they are large enough, or where no other is left.
    """
    inside, found = holds_thumbnails(export), dict[int, Image.Image]()
    if not inside or side > SIDE:
        for row, picture in zip(rows, _read(export, rows, side), strict=True):
            if picture is not None:
                found[row] = picture
            if picture is not None or not inside:
                reporter.advance()
    wanted = set(rows) - found.keys()
    if inside and wanted:
        for row, content in enumerate(parquet_thumbnails(export.path)):
            if row in wanted and content:
                with Image.open(io.BytesIO(content)) as image:
                    found[row] = image.convert("RGB")
                reporter.advance()
    return found


def all_thumbnails(export: Embeddings, reporter: Reporter) -> Iterator[bytes | None]:
    """A JPEG file of each row's picture in turn; None for those that are gone."""
    if holds_thumbnails(export):
        for content in parquet_thumbnails(export.path):
            reporter.advance()
            yield content or None
        return
    for picture in _read(export, range(len(export.paths)), SIDE):
        reporter.advance()
        yield as_jpeg(picture) if picture is not None else None


def holds_thumbnails(export: Embeddings) -> bool:
    return export.path.suffix == ".parquet" and bool(export.metadata.get("thumbnails"))


def missing_remark(missing: int, of: int, reporter: Reporter) -> None:
    """Tell of pictures that could not be read again."""
    if missing:
        them = "the only picture" if of == 1 else f"{missing} of {of} pictures"
        is_ = "is" if missing == 1 else "are"
        reporter.remark(
            f"{them} {is_} not where embedding found them; paths are relative to the folder in"
            " which `dino embed` ran"
        )


def _read(export: Embeddings, rows: Sequence[int], side: int) -> Iterator[Image.Image | None]:
    """In order; a few are read ahead, in threads."""
    exif = _exif(export)

    def one(row: int) -> Image.Image | None:
        try:
            return small_picture(Path(export.paths[row]), exif=exif, side=side)
        except (OSError, ValueError):
            return None

    waiting: list[Future[Image.Image | None]] = []
    with ThreadPoolExecutor(min(8, available_cores())) as pool:
        try:
            for row in rows:
                waiting.append(pool.submit(one, row))
                if len(waiting) >= AHEAD:
                    yield waiting.pop(0).result()
            while waiting:
                yield waiting.pop(0).result()
        finally:
            pool.shutdown(cancel_futures=True)


def _exif(export: Embeddings) -> bool:
    preprocessing: Any = export.metadata.get("preprocessing")
    return bool(preprocessing.get("exif", True)) if isinstance(preprocessing, dict) else True
