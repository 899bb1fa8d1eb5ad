"""Embed pictures: features of every file, kept block by block, then one export of all of them."""

import hashlib
import json
import os
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

from dino_cli.config.embed import EmbedConfig
from dino_cli.config.shared import Preprocessing
from dino_cli.config.values import counted
from dino_cli.core.network.architecture import LAST_LAYER
from dino_cli.core.network.features import Kind
from dino_cli.data.decoding.pixel_limit import within_pixel_limit
from dino_cli.data.listing.contents import path_on_disk
from dino_cli.data.listing.image_list import ImageFile
from dino_cli.data.listing.media import find_frames
from dino_cli.errors import DinoError, Interrupted, TaskError
from dino_cli.progress import Reporter
from dino_cli.runtime import Ranks, rank_device, ranks_from_environment
from dino_cli.store.embeddings.blocks import Blocks
from dino_cli.store.embeddings.formats import export_files
from dino_cli.store.writing.locks import lock_output
from dino_cli.store.writing.tables import skipped_path, write_skipped
from dino_cli.store.writing.targets import check_files, explain_errors, keep_inputs
from dino_cli.tasks.embed.append import compare_files
from dino_cli.tasks.embed.merge import EarlierExport, MergedBlocks
from dino_cli.tasks.embed.options import check_options, transform_of
from dino_cli.tasks.embed.output import write_output
from dino_cli.tasks.embed.renamed import block_as_found
from dino_cli.tasks.embed.result import finished, has_places, result_of, unchanged
from dino_cli.tasks.embed.share import block_size, embed_share, row_path
from dino_cli.tasks.embed.skipped import retry_skipped
from dino_cli.tasks.model import Model, open_model
from dino_cli.tasks.provenance import model_facts
from dino_cli.tasks.unreadable import nothing_read

__all__ = ["embed"]

WAITING_MINUTES = 24 * 60.0  # for other processes, whose shares may take longer
GLANCE_SECONDS = 0.2


@dataclass(frozen=True)
class _Plan:
    """What rank 0 found out for all. done: numbers of the blocks that are there already; result:
    what to return at once when there is nothing to do."""

    files: Sequence[ImageFile]
    done: list[int]
    size: int
    result: dict[str, Any] | None = None


@within_pixel_limit
def embed(config: EmbedConfig, reporter: Reporter) -> dict[str, Any]:
    """Write the features of all pictures, with their paths and what made them.

    Returns count, dim, skipped, seconds, images_per_second, output and skipped_list; with
    `resume` or `append` also `embedded`, how many were made this time. Under torchrun each
    process embeds its share, and rank 0 returns the whole. Raises `Interrupted` after Ctrl-C, when
    blocks that are done are kept; after any other error nothing new is left.
    """
    kinds = check_options(config)
    device = rank_device(config.device)
    config = replace(config, device=str(device))
    with (
        ranks_from_environment(device, minutes=WAITING_MINUTES) as ranks,
        ExitStack() as stack,
    ):
        reporter = reporter if ranks.rank == 0 else Reporter()
        blocks = Blocks(config.output)
        started = time.monotonic()
        try:
            ranks.first(lambda: stack.enter_context(lock_output(config.output)))
            ranks.first(lambda: _check_outputs(config, kinds, blocks))
            return _embed(config, kinds, blocks, ranks, reporter, started)
        except KeyboardInterrupt:
            raise _interrupted(blocks, ranks) from None
        except BaseException:
            # An earlier interrupted run stays as good as it was; what is on its way arrives.
            if ranks.rank == 0 and blocks.size and not (blocks.resumed or blocks.publishing):
                with suppress(DinoError, OSError):
                    blocks.remove()
            raise


def _embed(
    config: EmbedConfig,
    kinds: tuple[Kind, ...],
    blocks: Blocks,
    ranks: Ranks,
    reporter: Reporter,
    started: float,
) -> dict[str, Any]:
    found_files, rates = ranks.first(
        lambda: find_frames(
            config.paths, config.fps, reporter, null=config.null, offline=config.offline
        )
    )
    files = found_files.labelled()
    ranks.first(lambda: _keep_inputs(config, kinds, files))
    model = open_model(config, reporter)
    p = transform_of(config, model)
    facts = _facts(config, kinds, model, p)
    base: EarlierExport | None = None

    def plan() -> _Plan:
        nonlocal base
        new: Sequence[ImageFile] = files
        if config.append and config.output.exists():
            found = compare_files(config, files, facts, reporter)
            found.tell(reporter)
            base, new = found.base, found.new
            if not new and not found.moved and (has_places(base) or not config.project):
                with explain_errors(config.output):
                    write_skipped(config.output, ())  # of files that are gone
                return _Plan([], [], 0, unchanged(config, base))
        elif config.resume and not blocks.exists() and config.output.exists():
            return _Plan([], [], 0, finished(config, files, facts, p, reporter))
        inputs = _digest(new)
        run = {**facts, "thumbnails": config.thumbnails, "inputs": inputs}
        if base is not None:
            run["base"] = len(base.keep), hashlib.sha256("".join(base.digests).encode()).hexdigest()
        if blocks.exists() and config.resume:
            damaged = blocks.open(run)
            if damaged:
                are = counted(damaged, "block was", "blocks were")
                reporter.remark(f"{are} damaged, and made again")
            retry_skipped(blocks, new, p, config, reporter)
        else:
            size = block_size(len(new), config.batch_size, ranks.count)
            blocks.start(run, size, len(new), replaces=config.overwrite or base is not None)
        return _Plan(new, blocks.done(), blocks.size)

    planned = ranks.first(plan)
    if planned.result is not None:
        return planned.result
    blocks.size, blocks.files = planned.size, len(planned.files)
    embed_share(blocks, planned.done, planned.files, model, p, config, ranks, reporter, kinds=kinds)
    if ranks.rank:
        return {}
    _wait(blocks, reporter)
    made = [
        block_as_found(blocks, number, planned.files, config)
        if number in planned.done
        else blocks.block(number)
        for number in range(blocks.count)
    ]
    merged = MergedBlocks(kinds, made, base)
    if not merged.count:
        raise nothing_read(merged.skipped)
    if base is not None and has_places(base):
        config = replace(config, project=True)  # old places would not fit the new rows
    fresh = [block for n, block in enumerate(made) if n not in planned.done]
    embedded = sum(len(block.rows) for block in fresh)  # before the blocks go
    write_output(config, kinds, blocks, merged, {**facts, **_videos(rates, base, config)}, reporter)
    return result_of(
        config,
        count=merged.count,
        dim=merged.shapes[kinds[0]][0][-1],
        skipped=len(merged.skipped),
        embedded=embedded,
        seconds=time.monotonic() - started,
    )


def _check_outputs(config: EmbedConfig, kinds: Sequence[str], blocks: Blocks) -> None:
    """Before any long work. Raises `TaskError` for what stands in the way."""
    targets = [*export_files(config.output, kinds), skipped_path(config.output)]
    if blocks.recover() and config.resume:
        return
    if config.resume and not blocks.exists():
        with suppress(TaskError):  # of another kind: told where it is in the way
            blocks.remove()  # of a process killed as it began or ended
    if blocks.exists():
        if config.resume:
            check_files(targets, overwrite=True)
            return
        if not config.overwrite:
            raise TaskError(
                f"{str(blocks.folder)!r} holds an interrupted run",
                "go on with --resume, or start again with --overwrite",
            )
    present = config.output.exists() and (config.resume or config.append)
    _check_table(config.output)
    check_files(targets, overwrite=config.overwrite or present)
    blocks.check_free()


def _keep_inputs(config: EmbedConfig, kinds: Sequence[str], files: Sequence[ImageFile]) -> None:
    """Raises `TaskError` where the features would replace what they are made of."""
    targets = [*export_files(config.output, kinds), skipped_path(config.output)]
    given = [Path(name) for name in config.paths]
    weights = [config.weights, *config.weights.glob("*")] if config.weights else []
    keep_inputs(targets, chain(weights, given, (path_on_disk(file.path) for file in files)))


def _check_table(output: Path) -> None:
    """Raises `TaskError` where the .csv beside would be that of an export in another format."""
    formats = (".npy", ".safetensors")
    table = output.with_suffix(".csv")
    if output.suffix not in (*formats, ".csv") or not table.exists():
        return
    for suffix in formats:
        other = output.with_suffix(suffix)
        if suffix != output.suffix and other.exists():
            raise TaskError(
                f"{str(table)!r} belongs to {str(other)!r}, which needs it",
                "choose another name",
            )


def _facts(
    config: EmbedConfig, kinds: Sequence[str], model: Model, p: Preprocessing
) -> dict[str, Any]:
    """What made the features; equal facts and equal files make equal features.

    The layer is among them unless it is the last one, of which exports have never told. Raises
    `UsageError` for one that the network does not have.
    """
    block = model.block(config.layer)
    return {
        **model.identity,
        **model_facts(config),
        "preprocessing": asdict(p),
        "features": kinds[0],
        "kinds": list(kinds),
        **({} if block == LAST_LAYER else {"layer": block}),
        "normalize": config.normalize,
        "multi_scale": config.multi_scale,
    }


def _videos(
    rates: Mapping[str, float], base: EarlierExport | None, config: EmbedConfig
) -> dict[str, Any]:
    """Frames per second of every video, by its path as rows name it; nothing without videos."""
    known = dict(base.export.metadata.get("videos") or {}) if base is not None else {}
    known |= {row_path(Path(path), config): round(rate, 6) for path, rate in rates.items()}
    return {"videos": known} if known else {}


def _digest(files: Sequence[ImageFile]) -> str:
    """Of the files' names, labels, sizes and times: changes when one of them does."""
    state = hashlib.sha256()
    for file in files:
        try:
            about = path_on_disk(file.path).stat()
            stamp = [about.st_size, about.st_mtime_ns]
        except OSError:
            stamp = []
        line = json.dumps([os.path.abspath(file.path), file.label, stamp])
        state.update(line.encode("ascii"))
    return state.hexdigest()


def _wait(blocks: Blocks, reporter: Reporter) -> None:
    """Until the other processes have written their blocks."""
    if len(blocks.done()) == blocks.count:
        return
    reporter.stage("waiting for other processes", blocks.count, "blocks")
    seen = 0
    while seen < blocks.count:
        time.sleep(GLANCE_SECONDS)
        now = len(blocks.done())
        reporter.advance(now - seen)
        seen = now
    reporter.finish()


def _interrupted(blocks: Blocks, ranks: Ranks) -> Interrupted:
    done = blocks.done() if blocks.size else []
    if not done:
        if ranks.rank == 0 and blocks.size and not blocks.resumed:
            with suppress(DinoError, OSError):
                blocks.remove()
        return Interrupted("interrupted")
    count = sum(len(blocks.span(number)) for number in done)
    return Interrupted(
        f"interrupted: {count} of {blocks.files} pictures are done and kept"
        f" in {str(blocks.folder)!r}",
        "go on with the same command and --resume",
    )
