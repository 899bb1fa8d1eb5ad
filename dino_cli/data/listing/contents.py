"""What is behind a picture's path: a file, a member of a shard, a frame of a video."""

import hashlib
import os
from functools import lru_cache
from pathlib import Path

from dino_cli.data.decoding.video_frames import in_video
from dino_cli.data.listing.shards import in_shard, read_member
from dino_cli.errors import TaskError

__all__ = ["content_sha256", "path_on_disk"]


def path_on_disk(path: Path) -> Path:
    """The file that holds a picture: itself, its tar, or its video."""
    inside = in_shard(path) or in_video(path)
    return Path(inside[0]) if inside else path


def content_sha256(path: Path) -> str:
    """SHA-256 of a picture's content, hexadecimal; raises `OSError`.

    Of the file, or of its bytes in a shard. That of a frame is made of the video's and its number.
    """
    frame, member = in_video(path), in_shard(path)
    if frame is not None:
        video, number = frame
        status = os.stat(video)
        whole = _of_video(video, status.st_size, status.st_mtime_ns)
        return hashlib.sha256(f"{whole}#frame={number}".encode()).hexdigest()
    if member is not None:
        try:
            return hashlib.sha256(read_member(*member)).hexdigest()
        except (EOFError, TaskError) as error:  # the shard has changed since it was listed
            raise OSError(str(error)) from None
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@lru_cache(maxsize=64)
def _of_video(video: str, _size: int, _changed: int) -> str:
    with open(video, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
