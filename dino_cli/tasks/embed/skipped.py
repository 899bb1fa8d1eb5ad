"""Files that were skipped as unreadable: known again in a list of them, and tried again."""

import os
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePath

from dino_cli.config.embed import EmbedConfig
from dino_cli.config.shared import Preprocessing
from dino_cli.config.values import counted
from dino_cli.data.listing.image_list import ImageFile
from dino_cli.data.loader import image_batches
from dino_cli.progress import Reporter
from dino_cli.store.embeddings.blocks import Blocks

__all__ = ["are_listed", "ends_alike", "readable", "retry_skipped"]


def retry_skipped(
    blocks: Blocks,
    files: Sequence[ImageFile],
    p: Preprocessing,
    config: EmbedConfig,
    reporter: Reporter,
) -> None:
    """Remove the blocks with a file that was skipped and can be read now, to be made again.

    So a higher `--max-pixels` takes what was too large before. Rows that are there stay: with a
    lower one too, which only guards what is still to be read.
    """
    left: list[tuple[int, ImageFile]] = []
    for number in blocks.done():
        names = defaultdict[str, list[str]](list)
        for path, _ in blocks.block(number).skipped:
            names[PurePath(path).name].append(path)
        span = (files[i] for i in blocks.span(number) if names)
        left += [
            (number, file)
            for file in span
            if any(_is_listed(file, path) for path in names.get(file.path.name, ()))
        ]
    found = readable([file for _, file in left], p, config, reporter)
    if mended := [left[i][0] for i in found]:
        blocks.drop(mended)
        are = counted(len(mended), "picture that was", "pictures that were")
        reporter.remark(f"{are} skipped can be read now: the rows around are made again")


def readable(
    files: Sequence[ImageFile], p: Preprocessing, config: EmbedConfig, reporter: Reporter
) -> Iterator[int]:
    """Positions of the files, which were skipped, that can be read now, in order."""
    if not files:
        return
    reporter.stage("trying what was skipped", len(files))
    for batch in image_batches(files, p, batch_size=config.batch_size, workers=config.workers):
        yield from batch.indices
        reporter.advance(len(batch.indices) + len(batch.failures))
    reporter.finish()


def are_listed(skipped: Sequence[ImageFile], listed: Sequence[str]) -> bool:
    """Whether the files are those of the list, each of them, wherever it was called from."""
    files = sorted(skipped, key=lambda file: _from_behind(file.path))
    names = sorted(listed, key=_from_behind)
    return len(files) == len(names) and all(map(_is_listed, files, names))


def _is_listed(file: ImageFile, name: str) -> bool:
    return os.path.abspath(file.path) == os.path.abspath(name) or ends_alike(name, file)


def _from_behind(path: str | Path) -> tuple[str, ...]:
    """Its parts, the name first: the order of files is the same then, whatever leads to them."""
    return PurePath(os.path.abspath(path)).parts[::-1]


def ends_alike(path: str, file: ImageFile) -> bool:
    """Whether a path as it was recorded has the file's place below what was given."""
    inside = file.relative.parts
    return PurePath(path).parts[-len(inside) :] == inside
