"""`dino eval copies`: the originals of altered copies, as on Copydays (paper, table 4)."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from torch import Tensor

from dino_cli.config.eval_copies import EvalCopiesConfig
from dino_cli.config.ranges import check_positive
from dino_cli.config.shared import Preprocessing
from dino_cli.core.evaluation.descriptors import cls_and_gem
from dino_cli.core.network.backbone import Backbone
from dino_cli.core.pca.moments import Moments
from dino_cli.core.pca.whitening import Whitening
from dino_cli.data.decoding.pixel_limit import within_pixel_limit
from dino_cli.data.listing.image_list import ImageFile
from dino_cli.data.listing.images import find_images
from dino_cli.errors import TaskError, UsageError
from dino_cli.progress import Reporter
from dino_cli.store.writing.tables import csv_table
from dino_cli.tasks.eval.copies.blocks import ORIGINAL, STRONG, CopyBlock, find_blocks
from dino_cli.tasks.eval.copies.examples import choose_examples, examples
from dino_cli.tasks.eval.copies.ranks import CopyRanks
from dino_cli.tasks.eval.descriptors import DescriptorBatch, described, described_all
from dino_cli.tasks.eval.report import Table, check_report, report, write_report
from dino_cli.tasks.model import Model, open_model
from dino_cli.tasks.unreadable import cannot_read

__all__ = ["copies", "examples", "figures", "tables"]

QUERIES = "queries.csv"
LIMIT = 20  # originals further down count as not found, as in the original


@within_pixel_limit
def copies(config: EvalCopiesConfig, reporter: Reporter) -> dict[str, Any]:
    """Search the original of every copy among all originals and the distractors.

    Returns `{"map": {block: mean average precision}}` as fractions, with whitening if it was asked
    for, and then the same without it as `map_without_whitening`; and `examples`: `{"path",
    "block", "original", "rank"}`, ranks from 1.
    """
    _check(config)
    others = [folder for folder in (config.distractors, config.whitening) if folder is not None]
    blocks = find_blocks(config.root, leave_out=others)
    distractors, white = (
        find_images([str(folder)]) if folder is not None else []
        for folder in (config.distractors, config.whitening)
    )
    model = open_model(config, reporter)
    work = _Work(config, model, reporter)
    whitening = work.whitening(white) if white else None
    queries = [file for block in blocks for file in block.files]
    descriptors = described_all(queries, work.described(queries, "embedding copies"))
    # Copies are sorted by block, the originals first: they are queries and database alike.
    pairs = _pairs(blocks)
    count = len(blocks[0].files)
    ranks = {"": CopyRanks(descriptors, count, pairs, whitening)}
    if whitening is not None:
        ranks["_without_whitening"] = CopyRanks(descriptors, count, pairs, None)
    skipped = 0
    for batch in work.described(distractors, "embedding distractors") if distractors else ():
        skipped += work.skipped(distractors, batch)
        for one in ranks.values():
            one.add(batch.descriptors)
    precisions = {suffix: one.precisions(LIMIT) for suffix, one in ranks.items()}
    result: dict[str, Any] = {
        f"map{suffix}": _means(blocks, values) for suffix, values in precisions.items()
    }
    result |= {
        "queries": len(queries),
        "database": count + len(distractors) - skipped,
        "distractors": len(distractors) - skipped,
        "whitening": work.learned_on,
        "image_size": config.image_size,
        "examples": choose_examples(blocks, pairs, ranks[""].ranks.tolist()),
        **model.identity,
    }
    if config.output is not None:
        result["output"] = str(config.output)
        with report(config.output, [QUERIES]) as stage:
            header = ("block", "path", "original", "rank", "average_precision")
            with csv_table(stage / QUERIES, header) as write:
                for row in _rows(blocks, pairs, ranks[""], precisions[""]):
                    write(row)
            shown = examples(config, result, reporter)
            write_report(stage, "copies", result, figures(result), tables(result), shown)
    return result


def _check(config: EvalCopiesConfig) -> None:
    check_positive("--image-size", config.image_size, 320)
    check_report(config.output, [QUERIES], overwrite=config.overwrite)


class _Work:
    """The network, and how pictures become its input."""

    def __init__(self, config: EvalCopiesConfig, model: Model, reporter: Reporter) -> None:
        self.config, self.model, self.reporter = config, model, reporter
        backbone = model.backbone
        if not backbone.has_attention:
            raise UsageError(
                f"{model.weights.name} has no class token beside its patches",
                "use a ViT, such as --model dino_vits16",
            )
        if config.image_size < backbone.patch_size:
            raise UsageError(
                f"--image-size {config.image_size} is smaller than one patch of"
                f" {backbone.patch_size} pixels",
                "use a larger --image-size",
            )
        side = config.image_size
        self.p: Preprocessing = replace(
            model.preprocessing,
            resize=(side, side),
            crop=None,
            interpolation="bicubic",
            multiple=backbone.patch_size,
            exif=config.exif,
        )
        self.learned_on = 0

    def described(self, files: Sequence[ImageFile], stage: str) -> Iterator[DescriptorBatch]:
        encode = partial(_encode, self.model.backbone)
        return described(files, encode, self.model, self.p, self.config, self.reporter, stage=stage)

    def whitening(self, files: Sequence[ImageFile]) -> Whitening:
        moments, skipped = Moments(), 0
        for batch in self.described(files, "embedding for whitening"):
            skipped += self.skipped(files, batch)
            if batch.indices:
                moments.add(batch.descriptors)
        if not moments.count:
            raise TaskError(
                f"no readable image in {str(self.config.whitening)!r}", "name another --whitening"
            )
        if moments.count <= self.model.backbone.dim * 2:
            self.reporter.remark(
                f"whitening of {2 * self.model.backbone.dim} values learned on {moments.count}"
                " images: more images than values make it reliable"
            )
        self.learned_on = moments.count
        return Whitening.of(moments)

    def skipped(self, files: Sequence[ImageFile], batch: DescriptorBatch) -> int:
        """How many files of a batch were unreadable; said, or an error with --strict."""
        for position, reason in batch.failures:
            path = files[position].path.as_posix()
            if self.config.strict:
                raise cannot_read(path, reason)
            self.reporter.remark(f"skipped {path!r}: {reason}")
        return len(batch.failures)


def _encode(backbone: Backbone, images: Tensor) -> Tensor:
    return cls_and_gem(backbone.tokens(images), backbone.prefix_tokens)


def _pairs(blocks: Sequence[CopyBlock]) -> list[tuple[int, int]]:
    """(query, original) of all copies, queries numbered through all blocks."""
    pairs, start = [], 0
    for block in blocks:
        pairs += [(start + i, j) for i, own in enumerate(block.originals) for j in own]
        start += len(block.files)
    return pairs


def _means(blocks: Sequence[CopyBlock], precisions: Sequence[float]) -> dict[str, float]:
    means, start = {}, 0
    for block in blocks:
        own = precisions[start : start + len(block.files)]
        means[block.name] = sum(own) / len(own)
        start += len(own)
    return means


def _rows(
    blocks: Sequence[CopyBlock],
    pairs: Sequence[tuple[int, int]],
    ranks: CopyRanks,
    precisions: Sequence[float],
) -> Iterator[list[object]]:
    queries = [(block.name, file) for block in blocks for file in block.files]
    for (query, original), rank in zip(pairs, ranks.ranks, strict=True):
        block, file = queries[query]
        path = blocks[0].files[original].path.as_posix()
        yield [block, file.path.as_posix(), path, int(rank) + 1, f"{precisions[query]:.6g}"]


def figures(result: Mapping[str, Any]) -> dict[str, float]:
    """That of the strong copies, as published, else the mean over the blocks; in percent."""
    precision = result["map"]
    if STRONG in precision:
        return {"strong mAP": 100 * precision[STRONG]}
    altered = [value for name, value in precision.items() if name != ORIGINAL]
    return {"mAP": 100 * sum(altered) / len(altered)} if altered else {}


def tables(result: Mapping[str, Any]) -> list[Table]:
    """One row for each kind of copy, without whitening beside where there is one."""
    shown = {"mAP %": result["map"]}
    if "map_without_whitening" in result:
        shown = {
            "mAP %, whitened": result["map"],
            "mAP %, not whitened": result["map_without_whitening"],
        }
    return [
        Table(
            title=f"{result['queries']} queries, {result['database']} images,"
            f" {result['distractors']} of them distractors",
            columns=("block", *shown),
            rows=[
                [name, *(f"{100 * values[name]:.1f}" for values in shown.values())]
                for name in result["map"]
            ],
            note="A copy's original counts as found among the first 20 images.",
        )
    ]
