"""`dino attention`: photos and videos in; heat maps, masks, overlays, COCO files and a page out."""

from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

from dino_cli.config.attention import AttentionConfig
from dino_cli.data.decoding.decode import UnreadableImage
from dino_cli.data.decoding.pixel_limit import within_pixel_limit
from dino_cli.data.listing.image_list import ImageFile
from dino_cli.progress import Reporter
from dino_cli.store.pictures.videos import NO_H264, h264_program
from dino_cli.store.writing.locks import lock_output
from dino_cli.tasks.attention.outputs import Outputs
from dino_cli.tasks.attention.plan import AttentionPlan, plan, read_options
from dino_cli.tasks.attention.stills import run_stills
from dino_cli.tasks.attention.videos import run_video
from dino_cli.tasks.photos.frames import Videos
from dino_cli.tasks.photos.inputs import find_inputs
from dino_cli.tasks.photos.reading import unread

__all__ = ["attention"]


@within_pixel_limit
def attention(config: AttentionConfig, reporter: Reporter) -> dict[str, Any]:
    """Write a result folder for each photo and video, and what is asked beside; see the help.

    Returns {"images": [{"input", "folder", "size", "grid", "heads", "best_head"}, …], "skipped":
    count, "skipped_list": path or None, "output": path}, sizes height first; with a mask of the
    whole photo also "score" and "guess", of videos "frames" and "fps". Raises `Interrupted` after
    Ctrl-C; inputs that are done stay. After any other error nothing new is left.
    """
    asked = read_options(config)
    photos, clips = find_inputs(config, reporter)
    inputs = [*photos, *clips.files]
    with lock_output(config.output), ExitStack() as stack:
        out = Outputs(config, inputs, asked, stack)
        out.check()
        planned = plan(config, asked, reporter)
        with out.working(partial(out.write_shared, planned)):
            _look_at_all(planned, out, clips, reporter)
            result = out.told(reporter) | {"shared": out.told_shared()}
            out.write_shared(planned)
        return result


def _look_at_all(
    planned: AttentionPlan,
    out: Outputs,
    clips: Videos,
    reporter: Reporter,
) -> None:
    """The inputs in their order: first the photos, then the videos."""
    names = _names(out.inputs, planned.config)
    photos = len(out.inputs) - len(clips.files)
    if photos:
        run_stills(planned, out, names[:photos], reporter)
    if clips.files and planned.asked.pictures and h264_program() is None:
        reporter.remark(NO_H264)
    for number, file in enumerate(clips.files, photos):
        try:
            opened = clips.open(file)
            height, width = opened.size
            video = {"id": len(out.videos) + 1, "name": names[number], "height": height}
            video |= {"width": width, "fps": opened.fps}
            run_video(planned, out, opened, number, video, reporter)
        except (UnreadableImage, ValueError) as error:
            out.skip(unread(number, error))


def _names(files: Sequence[ImageFile], config: AttentionConfig) -> list[str]:
    """Names of inputs for people and COCO: below the folder when one was given, else as typed."""
    one_folder = len(config.images) == 1 and Path(config.images[0]).is_dir()
    return [(file.relative if one_folder else file.path).as_posix() for file in files]
