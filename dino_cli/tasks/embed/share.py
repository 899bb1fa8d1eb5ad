"""One process's share of the blocks: embedded, hashed, written as they are done."""

import shutil
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from dino_cli.config.embed import EmbedConfig
from dino_cli.config.shared import Preprocessing
from dino_cli.core.network.features import Kind
from dino_cli.data.decoding.thumbnails import as_jpeg, small_picture
from dino_cli.data.listing.contents import content_sha256
from dino_cli.data.listing.image_list import ImageFile, ImageList, ImageListBuilder
from dino_cli.errors import TaskError
from dino_cli.progress import Reporter
from dino_cli.runtime import Ranks, available_cores
from dino_cli.store.embeddings.blocks import Blocks, Row
from dino_cli.tasks.embed.forward import EmbeddedBatch, embed_batches, normalize_rows
from dino_cli.tasks.model import Model

__all__ = ["block_size", "embed_share", "other_grid", "row_path"]

BATCHES = 8  # in a block at most: what an interruption loses
SHARES = 4  # blocks for each process at least, where there are so many batches


def block_size(files: int, batch_size: int, ranks: int) -> int:
    """Files in a block: whole batches, so that the blocks never decide what is in a batch."""
    batch_size = max(1, batch_size)  # an impossible one is refused where it is used
    batches = -(-files // batch_size)
    return batch_size * max(1, min(BATCHES, batches // (SHARES * ranks)))


@dataclass
class _Open:
    """A block that is not complete yet."""

    left: int
    arrays: dict[str, list[NDArray[Any]]] = field(default_factory=dict)
    rows: list[Row] = field(default_factory=list)
    skipped: list[tuple[str, str]] = field(default_factory=list)
    thumbnails: list[bytes] = field(default_factory=list)


def embed_share(
    blocks: Blocks,
    done: Sequence[int],
    files: Sequence[ImageFile],
    model: Model,
    p: Preprocessing,
    config: EmbedConfig,
    ranks: Ranks,
    reporter: Reporter,
    *,
    kinds: Sequence[Kind],
) -> None:
    """Write this rank's blocks among those that are not `done`. Raises as `embed_batches` does."""
    missing = sorted(set(range(blocks.count)) - set(done))
    mine = missing[ranks.rank :: ranks.count]
    order = [i for number in mine for i in blocks.span(number)]
    own = _chosen(files, order)
    before = sum(len(blocks.span(number)) for number in done) if ranks.count == 1 else 0
    open_blocks: dict[int, _Open] = {}
    shapes: dict[str, tuple[int, ...]] = {}
    with _beside(own, config) as facts_of:
        for batch in embed_batches(
            own,
            model,
            p,
            config,
            reporter,
            kinds=kinds,
            layer=config.layer,
            strict=config.strict,
            multi_scale=config.multi_scale,
            done=before,
        ):
            _check_shapes(shapes, batch, own)
            arrays = {
                kind: normalize_rows(a) if config.normalize else a
                for kind, a in batch.arrays.items()
            }
            for position, reason in batch.failures:
                block = _block_of(order[position], blocks, open_blocks)
                block.skipped.append((own[position].path.as_posix(), reason))
                block.left -= 1
            for row, position in enumerate(batch.indices):
                block = _block_of(order[position], blocks, open_blocks)
                for kind, array in arrays.items():
                    block.arrays.setdefault(kind, []).append(array[row : row + 1])
                digest, picture = facts_of(position)
                file = own[position]
                block.rows.append(Row(row_path(file.path, config), file.label, digest))
                if config.thumbnails:
                    block.thumbnails.append(picture)
                block.left -= 1
            for number in [n for n, block in open_blocks.items() if not block.left]:
                block = open_blocks.pop(number)
                blocks.write(
                    number,
                    {kind: block.arrays.get(kind, []) for kind in kinds},
                    block.rows,
                    block.skipped,
                    block.thumbnails,
                )
                if number == mine[0]:
                    _check_room(blocks, number, len(missing))


def _chosen(files: Sequence[ImageFile], order: Sequence[int]) -> ImageList:
    """Those of the files, packed: as Python objects a million of them would take 600 MB."""
    if len(order) == len(files):
        return ImageList.of(files)
    builder = ImageListBuilder()
    builder.add(files[i] for i in order)
    return builder.build()


def row_path(path: Path, config: EmbedConfig) -> str:
    """How a file is named in the output: as it was found; absolute in a .parquet."""
    return (path.absolute() if config.output.suffix == ".parquet" else path).as_posix()


def _block_of(position: int, blocks: Blocks, open_blocks: dict[int, _Open]) -> _Open:
    number = position // blocks.size
    if number not in open_blocks:
        open_blocks[number] = _Open(left=len(blocks.span(number)))
    return open_blocks[number]


def _check_shapes(
    shapes: dict[str, tuple[int, ...]], batch: EmbeddedBatch, files: Sequence[ImageFile]
) -> None:
    for kind, array in batch.arrays.items():
        first = shapes.setdefault(kind, array.shape[1:])
        if array.shape[1:] != first:
            raise other_grid(files[batch.indices[0]].path.as_posix(), array.shape[1:], first)


def other_grid(path: str, found: Sequence[int], first: Sequence[int]) -> TaskError:
    """The error for pictures whose patches make different grids."""
    return TaskError(
        f"{path!r} has {found[0]} x {found[1]} patches, but pictures before it have"
        f" {first[0]} x {first[1]}",
        "make them equal with --image-size 480x480, or embed them apart",
    )


def _check_room(blocks: Blocks, number: int, missing: int) -> None:
    """Raises `TaskError` when the disk cannot hold what is to come: now, not after hours."""
    one = blocks.file(number).stat().st_size
    needed = one * (missing - 1) + one * blocks.count  # all blocks, then the output made of them
    free = shutil.disk_usage(blocks.folder).free
    if free < needed:
        raise TaskError(
            f"{str(blocks.output)!r} and what is kept until it is whole need {needed / 1e9:.3g} GB,"
            f" but {free / 1e9:.3g} GB are free",
            "free some space or choose another --output",
        )


@contextmanager
def _beside(files: Sequence[ImageFile], config: EmbedConfig) -> Iterator[Any]:
    """A function position → (SHA-256, thumbnail), worked out in threads while the network works."""

    def work(path: Path) -> tuple[str, bytes]:
        try:
            thumbnail = b""
            if config.thumbnails:
                thumbnail = as_jpeg(small_picture(path, exif=config.exif))
            return content_sha256(path), thumbnail
        except (OSError, ValueError):  # the network's own reading tells, if it matters
            return "", b""

    waiting: dict[int, Future[tuple[str, bytes]]] = {}
    ahead = 4 * config.batch_size
    begun = 0
    threads = max(1, min(config.workers, available_cores(), 4))
    with ThreadPoolExecutor(threads) as pool:

        def facts_of(position: int) -> tuple[str, bytes]:
            nonlocal begun
            while begun < len(files) and begun <= position + ahead:
                waiting[begun] = pool.submit(work, files[begun].path)
                begun += 1
            for passed in [i for i in waiting if i < position]:
                del waiting[passed]  # of files that could not be read
            return waiting.pop(position).result()

        try:
            yield facts_of  # no thread runs before the loader's processes have been forked
        finally:
            pool.shutdown(cancel_futures=True)
