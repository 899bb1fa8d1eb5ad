"""`dino pca`: patch features as colours, over a photo, a folder jointly, or a video."""

from collections.abc import Sequence
from functools import partial
from typing import Any

from dino_cli.config.pca import PcaConfig
from dino_cli.data.decoding.pixel_limit import within_pixel_limit
from dino_cli.progress import Reporter
from dino_cli.store.pictures.figures import png
from dino_cli.store.pictures.pca import PCA_NAMES, contact_sheet, write_components
from dino_cli.store.pictures.videos import NO_H264, h264_program
from dino_cli.store.writing.atomic import atomic_write
from dino_cli.store.writing.locks import lock_output
from dino_cli.tasks.pca.drawing import Drawings
from dino_cli.tasks.pca.plan import check_options, plan
from dino_cli.tasks.photos.inputs import find_inputs
from dino_cli.tasks.photos.results import PAGE, Results

__all__ = ["pca"]

SHEET, BASIS = "sheet.png", "components.safetensors"


@within_pixel_limit
def pca(config: PcaConfig, reporter: Reporter) -> dict[str, Any]:
    """Write a folder of pictures for each photo and video, and what they share.

    Returns {"images": [{"input", "folder", "size", "grid", "foreground"}, …], "fitted_on": count,
    "shares": of the variance of red, green, blue, "output", "skipped", "skipped_list"}; videos also
    have "frames" and "fps". Raises `Interrupted` after Ctrl-C; inputs that are done stay. After any
    other error nothing new is left.
    """
    check_options(config)
    photos, clips = find_inputs(config, reporter)
    inputs = [*photos, *clips.files]
    shared = [] if config.each else [BASIS]
    shared += [SHEET] if len(photos) > 1 else []
    shared += [PAGE] if config.html else []
    with lock_output(config.output):
        results = Results(config, inputs, PCA_NAMES, shared)
        results.check()
        planned = plan(config, clips, reporter)
        if clips.files and h264_program() is None:
            reporter.remark(NO_H264)
        drawings = Drawings(planned, results, len(photos), reporter)
        with results.working(partial(_write_shared, drawings)):
            drawings.run()
            result = results.told(reporter) | _told(drawings)
            _write_shared(drawings)
        return result


def _told(drawings: Drawings) -> dict[str, Any]:
    joint, root = drawings.joint, drawings.results.root
    shares = joint.colours.components.shares if joint is not None else None
    return {
        "shared": {str(root / name): what for name, what in _shared(drawings).items()},
        "fitted_on": joint.count if joint is not None else 0,
        "shares": [round(float(share), 4) for share in shares] if shares is not None else None,
    }


def _shared(drawings: Drawings) -> dict[str, str]:
    """The files that there will be for all inputs, and what is in each."""
    told = {}
    if BASIS in drawings.results.shared and drawings.joint is not None:
        told[BASIS] = "the directions that became colours"
    if SHEET in drawings.results.shared and drawings.pairs:
        told[SHEET] = "all in one picture"
    if PAGE in drawings.results.shared:
        told[PAGE] = "a page to look at"
    return told


def _write_shared(drawings: Drawings) -> None:
    """The colours, the sheet and the page, of all that is done."""
    config, results, joint = drawings.plan.config, drawings.results, drawings.joint
    made = drawings.plan.facts
    wanted: Sequence[str] = list(_shared(drawings)) if results.rows else []
    if BASIS in wanted and joint is not None:
        facts = {**made, "features": config.features, "fitted_on": str(joint.count)}
        write_components(results.root / BASIS, joint.colours.components, facts)
    if SHEET in wanted:
        pairs = [drawings.pairs[number] for number in sorted(drawings.pairs)]
        with atomic_write(results.root / SHEET) as temporary:
            temporary.write_bytes(png(contact_sheet(pairs)))
    if PAGE in wanted:
        results.write_page(
            "pca",
            fitted_on=joint.count if joint is not None else 0,
            joint=not config.each,
            foreground=config.foreground,
            facts=made,
        )
