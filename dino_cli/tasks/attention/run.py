"""`dino attention`: photos and videos in; heat maps, masks, overlays, COCO files and a page out."""

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path, PurePath
from typing import Any

from dino_cli.config.attention import AttentionConfig
from dino_cli.data.decoding.decode import UnreadableImage
from dino_cli.data.decoding.pixel_limit import within_pixel_limit
from dino_cli.data.decoding.video import open_pictures, open_video
from dino_cli.data.listing.images import ImageFile
from dino_cli.data.listing.media import find_media
from dino_cli.progress import Reporter
from dino_cli.store.pictures.videos import NO_H264, h264_program
from dino_cli.store.writing.locks import lock_output
from dino_cli.store.writing.targets import explain_errors
from dino_cli.tasks.attention.outputs import Outputs
from dino_cli.tasks.attention.plan import AttentionPlan, plan, read_options
from dino_cli.tasks.attention.stills import run_stills
from dino_cli.tasks.attention.videos import run_video
from dino_cli.tasks.photos.frames import Frames
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
    pictures, videos = find_media(config.images, reporter, null=config.null, offline=config.offline)
    sequences: list[tuple[ImageFile, Sequence[ImageFile]]] = [(video, ()) for video in videos]
    if config.fps is not None:
        sequences += _sequences(pictures)
        pictures = []
    inputs = [*pictures, *(video for video, _ in sequences)]
    with lock_output(config.output), ExitStack() as stack:
        out = Outputs(config, inputs, asked, stack)
        out.check()
        planned = plan(config, asked, reporter)
        try:
            with explain_errors(config.output):
                _look_at_all(planned, out, sequences, reporter)
                result = out.told(reporter) | {"shared": out.told_shared()}
                out.write_shared(planned)
            return result
        except KeyboardInterrupt:
            with explain_errors(config.output):
                out.write_shared(planned)
            raise out.interrupted() from None
        except BaseException:
            out.discard()
            raise


def _look_at_all(
    planned: AttentionPlan,
    out: Outputs,
    sequences: Sequence[tuple[ImageFile, Sequence[ImageFile]]],
    reporter: Reporter,
) -> None:
    """The inputs in their order: first the photos, then the videos."""
    names = _names(out.inputs, planned.config)
    photos = len(out.inputs) - len(sequences)
    if photos:
        run_stills(planned, out, names[:photos], reporter)
    if sequences and planned.asked.pictures and h264_program() is None:
        reporter.remark(NO_H264)
    for number, (file, frames) in enumerate(sequences, photos):
        video = {"id": len(out.videos) + 1, "name": names[number]}
        try:
            opened = _opened(file, frames, planned.config)
            size = {"height": opened.size[0], "width": opened.size[1], "fps": opened.fps}
            out.videos.append(video | size)
            run_video(planned, out, opened, number, video, reporter)
        except (UnreadableImage, ValueError) as error:
            out.videos = [known for known in out.videos if known["id"] != video["id"]]
            out.skip(unread(number, error))


def _opened(file: ImageFile, frames: Sequence[ImageFile], config: AttentionConfig) -> Frames:
    if frames:
        assert config.fps is not None
        return open_pictures(file.path, frames, config.fps, exif=config.exif)
    return open_video(file.path, config.fps)


def _sequences(pictures: Sequence[ImageFile]) -> list[tuple[ImageFile, Sequence[ImageFile]]]:
    """Pictures by the folder that they lie in, each folder one video."""
    folders: dict[Path, list[ImageFile]] = {}
    for file in pictures:
        folders.setdefault(file.path.parent, []).append(file)
    result: list[tuple[ImageFile, Sequence[ImageFile]]] = []
    for folder, files in folders.items():
        below = files[0].relative.parent
        name = below if below.parts else PurePath(folder.resolve().name or "frames")
        result.append((ImageFile(folder, "", name), files))
    return result


def _names(files: Sequence[ImageFile], config: AttentionConfig) -> list[str]:
    """Names of inputs for people and COCO: below the folder when one was given, else as typed."""
    one_folder = len(config.images) == 1 and Path(config.images[0]).is_dir()
    return [(file.relative if one_folder else file.path).as_posix() for file in files]
