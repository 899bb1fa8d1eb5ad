"""`dino attention`: photos in; a folder of heat maps, masks and overlays out for each."""

import csv
import os
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path, PurePath
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dino_cli.config.attention import AttentionConfig
from dino_cli.config.setting import parse_size
from dino_cli.config.shared import Preprocessing
from dino_cli.core.attention import threshold_mass
from dino_cli.core.masks import best_heads, cut_masks, seeded_masks
from dino_cli.data.images import ImageFile, find_images
from dino_cli.data.preprocess import normalize
from dino_cli.errors import Interrupted, TaskError, UsageError
from dino_cli.progress import Reporter
from dino_cli.runtime import available_cores
from dino_cli.store.attention_files import RESULT_NAMES, Compared, Shown, attention_files
from dino_cli.store.folders import ResultFolders, folder_names
from dino_cli.store.tables import csv_table
from dino_cli.tasks.attention.photos import Photo, Unread, photo_groups
from dino_cli.tasks.embed import nothing_read
from dino_cli.tasks.model import Model, open_model

__all__ = ["attention", "parse_heads"]

SKIPPED = "skipped.csv"


@dataclass(frozen=True)
class Seen:
    """What one forward pass gave for a photo, on the CPU; `h` × `w` patches.

    attention: (H, h, w) float32; masks: (H + 1, h, w) bool, of each head and of their mean; best:
    the head chosen without truth; whole: the photo's one mask (h, w), when that is asked for.
    """

    attention: Tensor
    masks: Tensor
    best: int
    whole: Tensor | None


def attention(config: AttentionConfig, reporter: Reporter) -> dict[str, Any]:
    """Write a result folder for each photo; see SPEC for its files.

    Returns {"images": [{"input", "folder", "size", "grid", "heads", "best_head"}, …], "skipped":
    count, "skipped_list": path or None, "output": path}, sizes height first. Raises `Interrupted`
    after Ctrl-C; photos that are done stay. After any other error nothing new is left.
    """
    _check(config)
    chosen = parse_heads(config.head)
    files = find_images(config.images, reporter=reporter)
    names = folder_names([file.relative for file in files], reserved=[SKIPPED])
    results = ResultFolders(config.output, RESULT_NAMES)
    results.check(names, overwrite=config.overwrite)
    model = open_model(config, reporter)
    patch = _patch_size(model, chosen)
    size = parse_size(config.image_size) if config.image_size else model.weights.attention_size
    if min(size if isinstance(size, tuple) else (size,)) < patch:
        raise UsageError(
            f"image size {config.image_size} is smaller than one patch of {patch} pixels",
            "use a larger --image-size",
        )
    preprocessing = replace(
        model.preprocessing,
        resize=size,
        crop=None,
        interpolation="bilinear",
        multiple=1,
        exif=config.exif,
    )
    if config.compile:
        model.backbone.compile_blocks()
    work = _Work(config, chosen, files, names, results, reporter)
    try:
        work.run(model, preprocessing, patch)
        return work.result()
    except KeyboardInterrupt:
        done = f"{len(work.rows)} of {len(files)} pictures are done and kept"
        raise Interrupted(f"interrupted: {done} in {str(config.output)!r}") from None
    except OSError as error:
        results.discard()
        raise TaskError(
            f"cannot write to {str(config.output)!r}: {error.strerror or error}",
            "make room, or choose another -o",
        ) from None
    except BaseException:
        results.discard()
        raise


def parse_heads(text: str) -> list[int | str]:
    """ "0,3" → [0, 3]; "all", "mean" and "best" stay words. Raises `UsageError`."""
    chosen: list[int | str] = []
    for part in (p.strip() for p in text.split(",")):
        if part not in ("all", "mean", "best") and not (part.isascii() and part.isdigit()):
            raise UsageError(
                f"--head {text!r} is none of all, mean, best and head numbers", "write --head 0,3"
            )
        chosen.append(int(part) if part.isdigit() else part)
    return list(dict.fromkeys(chosen))


def _check(config: AttentionConfig) -> None:
    if not config.images:
        raise UsageError("no picture given", "name files or folders: dino attention photo.jpg")
    if not 0 < config.threshold <= 1:
        raise UsageError(
            f"threshold {config.threshold:g} is not in (0, 1]", "the original uses --threshold 0.6"
        )
    if config.batch_size < 1:
        raise UsageError(
            f"batch size {config.batch_size} is not a positive number", "use --batch-size 8"
        )
    if config.workers < 0:
        raise UsageError(f"{config.workers} workers is a negative number", "use --workers 1")
    if config.image_size:
        parse_size(config.image_size)


def _patch_size(model: Model, chosen: Sequence[int | str]) -> int:
    name, backbone = model.weights.name, model.backbone
    if not backbone.has_attention:
        raise UsageError(
            f"{name} has no attention of a class token to its patches: that takes a vision"
            " transformer, not a convnet or a network that attends between channels",
            "use a ViT, such as --model dino_vits16",
        )
    high = max((head for head in chosen if isinstance(head, int)), default=0)
    if high >= backbone.heads:
        raise UsageError(
            f"head {high} asked for, but {name} has {backbone.heads} heads,"
            f" 0 to {backbone.heads - 1}",
            "choose among these",
        )
    return backbone.patch_size


def look(model: Model, pixels: Tensor, p: Preprocessing, config: AttentionConfig) -> list[Seen]:
    """One forward pass over uint8 pixels (B, 3, H, W), and the masks of patches that follow."""
    try:
        with model.autocast():
            heads, keys = model.backbone.cls_attention_and_keys(normalize(pixels, p, model.device))
    except torch.OutOfMemoryError:
        size = " x ".join(map(str, pixels.shape[2:]))
        raise TaskError(
            f"{len(pixels)} images of {size} pixels do not fit the device's memory",
            "use a smaller --batch-size or --image-size",
        ) from None
    if not heads.isfinite().all():
        raise TaskError(f"attention in {model.precision} is not finite", "use --precision fp32")
    seeded = seeded_masks(heads, keys)
    best = best_heads(heads, seeded, config.threshold)
    whole = {"attention": None, "seeded": seeded}.get(config.masks)
    if config.masks == "cut":
        whole = cut_masks(heads, keys)
    heads = heads.cpu()
    masks = threshold_mass(torch.cat([heads, heads.mean(dim=1, keepdim=True)], 1), config.threshold)
    return [
        Seen(heads[i], masks[i], best[i], whole[i] if whole is not None else None)
        for i in range(len(pixels))
    ]


class _Work:
    """The photos on their way: read in threads, seen by the network, written in threads."""

    def __init__(
        self,
        config: AttentionConfig,
        chosen: Sequence[int | str],
        files: Sequence[ImageFile],
        names: Sequence[PurePath],
        results: ResultFolders,
        reporter: Reporter,
    ) -> None:
        self.config, self.chosen, self.reporter = config, chosen, reporter
        self.files, self.names, self.results = files, names, results
        self.rows: dict[int, dict[str, Any]] = {}
        self.unread: dict[int, str] = {}
        self.writing: deque[Future[tuple[int, dict[str, Any]]]] = deque()

    def run(self, model: Model, p: Preprocessing, patch: int) -> None:
        config = self.config
        threads = max(1, min(config.workers, available_cores()))
        pool = ThreadPoolExecutor(threads)
        self.reporter.stage("attention", len(self.files))
        try:
            groups = photo_groups(
                pool, self.files, p, patch, size=config.batch_size, ahead=2 * threads
            )
            for group in groups:
                if isinstance(group, Unread):
                    self._skip(group)
                    continue
                pixels = torch.from_numpy(np.stack([photo.pixels for photo in group]))
                seen = look(model, pixels.permute(0, 3, 1, 2).contiguous(), p, config)
                for photo, one in zip(group, seen, strict=True):
                    self.writing.append(pool.submit(self._write, photo, one))
                self._finish(config.batch_size + 2 * threads)
            self._finish(0)
        finally:
            # What is being written is finished, so that no half folder stays behind.
            pool.shutdown(wait=True, cancel_futures=True)
            for future in self.writing:
                if future.done() and not future.cancelled() and not future.exception():
                    index, row = future.result()
                    self.rows[index] = row
        self.reporter.finish()

    def result(self) -> dict[str, Any]:
        output = self.config.output
        if not self.rows:
            raise nothing_read([(str(self.files[i].path), why) for i, why in self.unread.items()])
        listed = self._list_skipped()
        if self.unread:
            are = "1 file was" if len(self.unread) == 1 else f"{len(self.unread)} files were"
            self.reporter.remark(f"{are} unreadable and skipped; see {listed}")
        return {
            "output": str(output),
            "images": [self.rows[index] for index in sorted(self.rows)],
            "skipped": len(self.unread),
            "skipped_list": str(listed) if self.unread else None,
        }

    def _skip(self, file: Unread) -> None:
        if self.config.strict:
            raise TaskError(
                f"cannot read {str(self.files[file.index].path)!r}: {file.reason}",
                "repair it or leave out --strict",
            )
        self.unread[file.index] = file.reason
        self.reporter.advance()

    def _finish(self, most: int) -> None:
        """Wait until at most so many photos are still being written."""
        while self.writing and (len(self.writing) > most or self.writing[0].done()):
            index, row = self.writing[0].result()
            self.writing.popleft()
            self.rows[index] = row
            self.reporter.advance()

    def _write(self, photo: Photo, seen: Seen) -> tuple[int, dict[str, Any]]:
        files = attention_files(
            photo.view,
            photo.layout,
            seen.attention.numpy(),
            _shown(seen, self.chosen, self.config.masks),
            _compared(seen),
            refine=self.config.refine == "guided",
        )
        folder = self.results.write(self.names[photo.index], files)
        return photo.index, {
            "input": str(self.files[photo.index].path),
            "folder": str(folder),
            "size": list(photo.layout.photo),
            "grid": list(photo.layout.grid),
            "heads": len(seen.attention),
            "best_head": seen.best,
        }

    def _list_skipped(self) -> Path:
        """Name the unreadable files in OUT/skipped.csv; those of earlier runs stay listed."""
        path = self.config.output / SKIPPED
        listed: dict[str, str] = {}
        if path.exists():
            with path.open(newline="", encoding="utf-8", errors="surrogateescape") as lines:
                listed = {r["path"]: r["reason"] for r in csv.DictReader(lines)}
        now = {os.path.abspath(file.path) for file in self.files}
        listed = {p: why for p, why in listed.items() if os.path.abspath(p) not in now}
        listed |= {str(self.files[i].path): why for i, why in sorted(self.unread.items())}
        if not listed:
            with suppress(FileNotFoundError):
                path.unlink()
            return path
        with csv_table(path, ("path", "reason")) as write:
            for row in listed.items():
                write(row)
        return path


def _shown(seen: Seen, chosen: Sequence[int | str], masks: str) -> list[Shown]:
    """What gets pictures of its own: the photo's one mask if there is one, and the chosen heads."""
    shown = [] if seen.whole is None else [Shown(masks, mask=seen.whole.numpy())]
    count = len(seen.attention)
    for choice in chosen:
        for head in range(count) if choice == "all" else [choice]:
            name = head if isinstance(head, str) else f"head{head}"
            index = {"mean": count, "best": seen.best}.get(str(head), head)
            assert isinstance(index, int)
            heat = seen.attention.mean(dim=0) if head == "mean" else seen.attention[index]
            mask = seen.masks[index].numpy() if seen.whole is None else None
            shown.append(Shown(name, heat.numpy(), mask))
    return list({one.name: one for one in shown}.values())


def _compared(seen: Seen) -> list[Compared]:
    mean = Compared("mean", seen.attention.mean(dim=0).numpy(), seen.masks[-1].numpy())
    heads = [
        Compared(
            f"head {head}, best" if head == seen.best else f"head {head}",
            attention.numpy(),
            mask.numpy(),
            marked=head == seen.best,
        )
        for head, (attention, mask) in enumerate(zip(seen.attention, seen.masks[:-1], strict=True))
    ]
    return [mean, *heads]
