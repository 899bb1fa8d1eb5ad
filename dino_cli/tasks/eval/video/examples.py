"""Videos for the page, from the best to the worst: frames under the labels carried to them."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np

from dino_cli.data.decoding.decode import UnreadableImage, read_image
from dino_cli.errors import TaskError
from dino_cli.store.benchmarks.davis import Video, read_labels
from dino_cli.store.pages import picture
from dino_cli.store.pictures.figures import overlay_of_parts
from dino_cli.tasks.eval.report import Example, ExampleTile, spread

__all__ = ["examples"]

WIDTH = 300  # pixels of a tile


def examples(
    output: Path | None, videos: Sequence[Video], per_object: Mapping[str, Mapping[str, float]]
) -> list[Example]:
    """Six videos evenly spread over the order by J&F, six frames of each.

    output: the folder that holds each video's masks; without one there are none. per_object: the
    figures {"J", "F"} by `VIDEO_NUMBER`; videos without come last. What cannot be read any more is
    left out.
    """
    if output is None:
        return []
    worth = {v.name: _mean(v.name, per_object) for v in videos}
    order = sorted(videos, key=lambda v: -worth[v.name])
    drawn = []
    for v in (order[place] for place in spread(len(order))):
        measured = f", J&F {100 * worth[v.name]:.1f} %" if worth[v.name] >= 0 else ""
        tiles = [_tile(v, output / v.name, step) for step in spread(len(v.frames))]
        drawn.append(
            Example(title=f"{v.name}{measured}", tiles=[tile for tile in tiles if tile is not None])
        )
    return drawn


def _mean(video: str, per_object: Mapping[str, Mapping[str, float]]) -> float:
    """J&F of a video's objects, -1 for none that was measured."""
    own = [row for name, row in per_object.items() if name.rpartition("_")[0] == video]
    return float(np.mean([(row["J"] + row["F"]) / 2 for row in own])) if own else -1.0


def _tile(video: Video, masks: Path, step: int) -> ExampleTile | None:
    frame = video.frames[step]
    try:
        photo = np.asarray(read_image(frame))
        labels = read_labels(masks / f"{frame.stem}.png", binary=False)
    except (UnreadableImage, TaskError):
        return None
    size = (WIDTH, max(1, round(photo.shape[0] * WIDTH / photo.shape[1])))
    small = np.asarray(cv2.resize(photo, size, interpolation=cv2.INTER_AREA), np.uint8)
    numbers = cv2.resize(labels.numbers, size, interpolation=cv2.INTER_NEAREST)
    shown = overlay_of_parts(small, np.asarray(numbers), [""] * labels.objects)
    caption = f"frame {step}" + (", given" if step == 0 else "")
    return ExampleTile(picture(shown, f"{video.name}, frame {step}"), caption)
