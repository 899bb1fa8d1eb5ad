"""Photos as tiles of a page's examples."""

from collections.abc import Sequence
from pathlib import Path

from dino_cli.data.decoding.thumbnails import small_picture
from dino_cli.store.pages import picture
from dino_cli.tasks.eval.report import ExampleTile

__all__ = ["photo_tiles"]

SIDE = 200  # pixels of a tile's longer side


def photo_tiles(
    photos: Sequence[tuple[str, str] | tuple[str, str, float]], *, exif: bool
) -> list[ExampleTile]:
    """A tile for each (path, caption) or (path, caption, value). What cannot be read any more is
    left out."""
    tiles = []
    for path, caption, *value in photos:
        try:
            shown = small_picture(Path(path), exif=exif, side=SIDE)
        except ValueError:
            continue
        tiles.append(ExampleTile(picture(shown, Path(path).name), caption, *value))
    return tiles
