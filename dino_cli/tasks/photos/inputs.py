"""How `dino attention` and `dino pca` begin: what both ask is checked, their inputs are found."""

from collections.abc import Sequence

from dino_cli.config.attention import AttentionConfig
from dino_cli.config.pca import PcaConfig
from dino_cli.config.ranges import check_batches, check_fps
from dino_cli.config.setting import parse_size
from dino_cli.data.listing.image_list import ImageFile
from dino_cli.data.listing.media import find_media
from dino_cli.errors import UsageError
from dino_cli.progress import Reporter
from dino_cli.tasks.photos.frames import Videos, find_videos

__all__ = ["check_inputs", "find_inputs"]


def check_inputs(config: AttentionConfig | PcaConfig, example: str) -> None:
    """Raises `UsageError` for what cannot be, before anything is loaded or looked for."""
    if not config.images:
        raise UsageError("no picture given", f"name files or folders: {example}")
    check_batches(config.batch_size, config.workers)
    check_fps(config.fps)
    if config.image_size:
        parse_size(config.image_size)


def find_inputs(
    config: AttentionConfig | PcaConfig, reporter: Reporter
) -> tuple[Sequence[ImageFile], Videos]:
    """The pictures that are looked at one by one, and the videos. Raises `TaskError`."""
    pictures, videos = find_media(config.images, reporter, null=config.null, offline=config.offline)
    return find_videos(pictures, videos, config.fps, exif=config.exif)
