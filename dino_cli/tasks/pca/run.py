"""`dino pca`: patch features as colours, over a photo, a folder jointly, or a video."""

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from dino_cli import __version__
from dino_cli.config.pca import PcaConfig
from dino_cli.config.ranges import check_batches, check_fps, check_positive
from dino_cli.config.setting import parse_size
from dino_cli.config.shared import Preprocessing
from dino_cli.data.decoding.pixel_limit import within_pixel_limit
from dino_cli.data.listing.media import find_media
from dino_cli.errors import Interrupted, TaskError, UsageError
from dino_cli.progress import Reporter
from dino_cli.store.pages import write_page
from dino_cli.store.pictures.figures import png
from dino_cli.store.pictures.pca import PCA_NAMES, contact_sheet, write_components
from dino_cli.store.pictures.videos import NO_H264, h264_program
from dino_cli.store.writing.folders import ResultFolders, folder_names
from dino_cli.store.writing.locks import lock_output
from dino_cli.store.writing.staging import stage_results
from dino_cli.store.writing.targets import check_free
from dino_cli.tasks.attention.outputs import SKIPPED, list_skipped
from dino_cli.tasks.model import Model, open_model
from dino_cli.tasks.pca.work import PcaWork
from dino_cli.tasks.unreadable import nothing_read

__all__ = ["pca"]

SHEET, BASIS, PAGE = "sheet.png", "components.safetensors", "index.html"
SHARED = {
    SHEET: "all in one picture",
    BASIS: "the directions that became colours",
    PAGE: "a page to look at",
}


@within_pixel_limit
def pca(config: PcaConfig, reporter: Reporter) -> dict[str, Any]:
    """Write a folder of pictures for each photo and video, and what they share.

    Returns {"images": [{"input", "folder", "size", "grid", "foreground"}, …], "fitted_on": count,
    "shares": of the variance of red, green, blue, "output", "skipped", "skipped_list"}; videos also
    have "frames" and "fps". Raises `Interrupted` after Ctrl-C; inputs that are done stay. After any
    other error nothing new is left.
    """
    _check(config)
    with lock_output(config.output):
        return _pca(config, reporter)


def _pca(config: PcaConfig, reporter: Reporter) -> dict[str, Any]:
    pictures, videos = find_media(config.images, reporter, null=config.null, offline=config.offline)
    inputs = [*pictures, *videos]
    shared = [] if config.each else [BASIS]
    shared += [SHEET] if len(pictures) > 1 else []
    shared += [PAGE] if config.html else []
    names = folder_names([file.relative for file in inputs], reserved=[SKIPPED, *shared])
    results = ResultFolders(config.output, PCA_NAMES)
    results.check(names, overwrite=config.overwrite)
    check_free(config.output, shared, overwrite=config.overwrite)
    model = open_model(config, reporter)
    if videos and h264_program() is None:
        reporter.remark(NO_H264)
    p = _preprocessing(config, model)
    had_list = (config.output / SKIPPED).exists()
    work = PcaWork(config, model, p, pictures, videos, names, results, reporter)
    try:
        work.run()
        if not work.rows:
            raise nothing_read(list(work.unread.values()))
        listed = list_skipped(
            config.output,
            work.rows.values(),
            [work.unread[number] for number in sorted(work.unread)],
            reporter,
        )
        _write_shared(work, shared)
        return {
            "output": str(config.output),
            "images": [work.rows[number] for number in sorted(work.rows)],
            "shared": {
                str(config.output / name): SHARED[name]
                for name in shared
                if (config.output / name).exists()
            },
            "fitted_on": work.fitted_on,
            "shares": [round(float(s), 4) for s in work.fit.components.shares]
            if work.fit
            else None,
            "skipped": len(work.unread),
            "skipped_list": listed,
        }
    except KeyboardInterrupt:
        if work.rows:
            _write_shared(work, shared)
        done = f"{len(work.rows)} of {len(inputs)} inputs are done and kept"
        raise Interrupted(f"interrupted: {done} in {str(config.output)!r}") from None
    except BaseException as error:
        if not had_list:
            with suppress(OSError):
                (config.output / SKIPPED).unlink(missing_ok=True)
        results.discard()
        if not isinstance(error, OSError):
            raise
        raise TaskError(
            f"cannot write to {str(config.output)!r}: {error.strerror or error}",
            "make room, or choose another -o",
        ) from None


def _check(config: PcaConfig) -> None:
    if not config.images:
        raise UsageError("no picture given", "name files or folders: dino pca photos/")
    check_positive("--fit", config.fit, 100)
    check_batches(config.batch_size, config.workers)
    check_fps(config.fps)
    if config.image_size:
        parse_size(config.image_size)


def _preprocessing(config: PcaConfig, model: Model) -> Preprocessing:
    """As attention's. Raises `UsageError` for a network or a size that cannot be."""
    name, backbone = model.weights.name, model.backbone
    if not backbone.has_blocks:
        raise UsageError(
            f"{name} has no patch tokens: that takes a vision transformer",
            "use a ViT, such as --model dino_vits16",
        )
    if config.features == "keys" and not backbone.has_attention:
        raise UsageError(
            f"{name} has no class token, so only tokens are read", "leave out --features"
        )
    if config.compile:
        backbone.compile_blocks()
    return model.whole_photo(config.image_size or None, exif=config.exif)


def _write_shared(work: PcaWork, shared: Sequence[str]) -> None:
    """What all inputs share: all of it, or nothing."""
    if shared:
        with stage_results(work.config.output, shared) as stage:
            _fill(stage, work, shared)


def _fill(output: Path, work: PcaWork, shared: Sequence[str]) -> None:
    identity = work.model.identity
    if BASIS in shared and work.fit is not None:
        facts = {**identity, "features": work.config.features, "fitted_on": str(work.fitted_on)}
        write_components(output / BASIS, work.fit.components, facts)
    if SHEET in shared and work.pairs:
        pairs = [work.pairs[number] for number in sorted(work.pairs)]
        (output / SHEET).write_bytes(png(contact_sheet(pairs)))
    if PAGE in shared:
        values = {
            "title": "dino pca",
            "cards": [work.cards[number] for number in sorted(work.cards)],
            "total": len(work.rows),
            "fitted_on": work.fitted_on,
            "joint": not work.config.each,
            "foreground": work.config.foreground,
            "facts": identity,
            "version": __version__,
        }
        write_page(output / PAGE, "pca", values)
