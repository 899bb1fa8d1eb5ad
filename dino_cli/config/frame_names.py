"""How a frame of a video is named: `clip.mp4#frame=12`, counted from zero."""

import re

__all__ = ["frame_name", "split_frame"]

FRAME = re.compile(r"(?s)(.+)#frame=(0|[1-9][0-9]{0,8})")


def frame_name(video: str, number: int) -> str:
    """The name of a frame."""
    return f"{video}#frame={number}"


def split_frame(name: str) -> tuple[str, int] | None:
    """The video and the number in a frame's name; None for any other name."""
    found = FRAME.fullmatch(name)
    return (found[1], int(found[2])) if found else None
