"""`dino attention`: photos and videos in; heat maps, masks, overlays, COCO files and a page out."""

from collections.abc import Sequence
from pathlib import Path, PurePath
from typing import Any

from dino_cli.config.attention import AttentionConfig
from dino_cli.data.decoding.decode import UnreadableImage
from dino_cli.data.decoding.pixel_limit import within_pixel_limit
from dino_cli.data.decoding.video import open_pictures, open_video
from dino_cli.data.listing.images import ImageFile
from dino_cli.data.listing.media import find_media
from dino_cli.errors import Interrupted, TaskError
from dino_cli.progress import Reporter
from dino_cli.store.pictures.videos import NO_H264, h264_program
from dino_cli.store.writing.folders import folder_names
from dino_cli.store.writing.locks import lock_output
from dino_cli.tasks.attention.outputs import SKIPPED, Outputs, outputs
from dino_cli.tasks.attention.photos import Unfit
from dino_cli.tasks.attention.plan import AttentionPlan, plan, read_options
from dino_cli.tasks.attention.stills import Stills
from dino_cli.tasks.attention.videos import Frames, run_video

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
    names = folder_names([file.relative for file in inputs], reserved=[SKIPPED, *asked.files])
    with (
        lock_output(config.output),
        outputs(config.output, asked, strict=config.strict, overwrite=config.overwrite) as out,
    ):
        out.folders.check(names if asked.pictures else [], overwrite=config.overwrite)
        planned = plan(config, asked, reporter)
        work = _Work(planned, out, pictures, sequences, names, reporter)
        try:
            work.run()
            result = out.result(reporter)
            out.write_shared(planned, work.videos)
            return result
        except KeyboardInterrupt:
            out.write_shared(planned, work.videos)
            done = f"{len(out.rows)} of {len(inputs)} inputs are done and kept"
            raise Interrupted(f"interrupted: {done} in {str(config.output)!r}") from None
        except OSError as error:
            out.discard()
            raise TaskError(
                f"cannot write to {str(config.output)!r}: {error.strerror or error}",
                "make room, or choose another -o",
            ) from None
        except BaseException:
            out.discard()
            raise


class _Work:
    """The inputs in their order: first the photos, then the videos."""

    def __init__(
        self,
        planned: AttentionPlan,
        out: Outputs,
        pictures: Sequence[ImageFile],
        sequences: Sequence[tuple[ImageFile, Sequence[ImageFile]]],
        names: Sequence[PurePath],
        reporter: Reporter,
    ) -> None:
        self.planned, self.out, self.reporter = planned, out, reporter
        self.pictures, self.sequences, self.names = pictures, sequences, names
        self.videos: list[dict[str, Any]] = []  # of the COCO files

    def run(self) -> None:
        count = len(self.pictures)
        told = _told([*self.pictures, *(video for video, _ in self.sequences)], self.planned.config)
        if self.pictures:
            Stills(
                self.planned,
                self.out,
                self.pictures,
                self.names[:count],
                told[:count],
                self.reporter,
            ).run()
        if self.sequences and self.planned.asked.pictures and h264_program() is None:
            self.reporter.remark(NO_H264)
        for number, (file, frames) in enumerate(self.sequences, count):
            video = {"id": len(self.videos) + 1, "name": told[number]}
            try:
                opened = self._open(file, frames)
                size = {"height": opened.size[0], "width": opened.size[1], "fps": opened.fps}
                self.videos.append(video | size)
                run_video(
                    self.planned, self.out, opened, number, self.names[number], video, self.reporter
                )
            except (UnreadableImage, Unfit) as error:
                self.videos = [known for known in self.videos if known["id"] != video["id"]]
                if isinstance(error, Unfit):
                    self.out.skip(number, file.path, str(error), error.error)
                else:
                    self.out.skip(number, file.path, error.reason)

    def _open(self, file: ImageFile, frames: Sequence[ImageFile]) -> Frames:
        config = self.planned.config
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


def _told(files: Sequence[ImageFile], config: AttentionConfig) -> list[str]:
    """Names of inputs for people and COCO: below the folder when one was given, else as typed."""
    one_folder = len(config.images) == 1 and Path(config.images[0]).is_dir()
    return [(file.relative if one_folder else file.path).as_posix() for file in files]
