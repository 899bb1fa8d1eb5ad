"""A still map: every picture a point, some of them shown, coloured by class."""

from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from dino_cli.store.pictures.map_layout import LegendEntry, MapLayout
from dino_cli.store.writing.atomic import atomic_write

__all__ = ["draw_map", "legend_width"]

PAPER, FIELD, FRAME = (255, 255, 255), (248, 249, 250), (226, 229, 233)
INK, FAINT, GREY, ALONE = (28, 32, 38), (112, 120, 130), (176, 182, 190), (66, 105, 208)
COLOURS = (
    (66, 105, 208), (239, 177, 24), (226, 79, 62), (60, 169, 81), (151, 80, 225), (20, 160, 175),
    (255, 128, 176), (150, 96, 60), (132, 178, 245), (120, 130, 20), (200, 30, 110), (245, 130, 30),
    (40, 60, 140), (120, 205, 120), (190, 160, 235), (110, 30, 60), (0, 115, 95), (215, 180, 130),
    (60, 60, 60), (165, 195, 30),
)  # fmt: skip
LONGEST_NAME = 26  # characters
CORNER = 0.07  # of a small picture's side

Pixels = NDArray[np.uint8]


def legend_width(entries: Sequence[LegendEntry], width: int) -> float:
    """Pixels across that a legend needs on a picture of that width."""
    unit = width / 2400
    return max((_line_width(entry, unit) for entry in entries), default=0.0)


def draw_map(
    path: Path,
    layout: MapLayout,
    title: str,
    subtitle: str,
    entries: Sequence[LegendEntry],
    colours: NDArray[np.int64],
    pictures: Mapping[int, Image.Image],
) -> None:
    """Draw a map as a .png; it appears whole or not at all.

    colours: for each point the number of its colour, -1 for grey. pictures: of some rows. Raises
    `OSError`.
    """
    unit = layout.unit
    canvas = np.full((layout.size[1], layout.size[0], 3), PAPER, np.uint8)
    left, top, right, bottom = layout.box
    canvas[top:bottom, left:right] = FIELD
    cv2.rectangle(canvas, (left, top), (right, bottom), FRAME, max(1, round(2 * unit)))
    _draw_points(canvas, layout, colours, bool(entries))
    shown = [
        (row, layout.points[row], middle)
        for row, middle in zip(layout.chosen.tolist(), layout.middles, strict=True)
        if row in pictures
    ]
    for row, point, middle in shown:
        _lead(canvas, point, middle, layout, _colour(int(colours[row]), bool(entries)))
    sheet = Image.fromarray(canvas)
    for row, _, middle in shown:
        _paste(sheet, pictures[row], layout, middle, _colour(int(colours[row]), bool(entries)))
    draw = ImageDraw.Draw(sheet)
    draw.text((left, round(36 * unit)), title, fill=INK, font=_font(round(40 * unit), bold=True))
    draw.text((left, round(94 * unit)), subtitle, fill=FAINT, font=_font(round(26 * unit)))
    _draw_legend(draw, layout, entries)
    with atomic_write(path) as temporary:
        sheet.save(temporary, "PNG", optimize=False, compress_level=6)


def _draw_points(
    canvas: Pixels, layout: MapLayout, colours: NDArray[np.int64], labelled: bool
) -> None:
    """In a fixed random order, so that no class hides the others; with a light rim when large."""
    shift, radius = 4, layout.radius
    scaled = np.rint(layout.points * 2**shift).astype(int)
    rim = round((radius + max(1.0, layout.unit)) * 2**shift) if radius > 3 * layout.unit else 0
    for row in np.random.default_rng(1).permutation(len(scaled)).tolist():
        at = (int(scaled[row, 0]), int(scaled[row, 1]))
        if rim:
            cv2.circle(canvas, at, rim, FIELD, -1, cv2.LINE_AA, shift)
        colour = _colour(int(colours[row]), labelled)
        cv2.circle(canvas, at, round(radius * 2**shift), colour, -1, cv2.LINE_AA, shift)


def _lead(
    canvas: Pixels,
    point: NDArray[np.float64],
    middle: NDArray[np.float64],
    layout: MapLayout,
    colour: tuple[int, int, int],
) -> None:
    """A line from a picture that lies beside its point, and a ring around the point."""
    if np.array_equal(point, middle):
        return
    scale, radius = 16, round(16 * (layout.radius + 3 * layout.unit))
    ends = [(round(float(p[0]) * scale), round(float(p[1]) * scale)) for p in (point, middle)]
    for width, shade in ((round(9 * layout.unit), FIELD), (round(4 * layout.unit), colour)):
        cv2.line(canvas, ends[0], ends[1], shade, max(1, width), cv2.LINE_AA, 4)
    cv2.circle(canvas, ends[0], radius, FIELD, -1, cv2.LINE_AA, 4)
    cv2.circle(canvas, ends[0], radius, colour, max(1, round(4 * layout.unit)), cv2.LINE_AA, 4)


def _paste(
    sheet: Image.Image,
    picture: Image.Image,
    layout: MapLayout,
    middle: NDArray[np.float64],
    colour: tuple[int, int, int],
) -> None:
    """A picture with round corners in a frame of its class's colour."""
    frame, rim = max(2, round(5 * layout.unit)), max(1, round(2 * layout.unit))
    small = picture.convert("RGB")
    small.thumbnail((layout.side - 2 * (frame + rim),) * 2, Image.Resampling.LANCZOS)
    corner = CORNER * layout.side
    size = (small.width + 2 * (frame + rim), small.height + 2 * (frame + rim))
    tile = Image.new("RGB", size, colour)
    tile.paste(PAPER, (frame, frame), _rounded((size[0] - 2 * frame, size[1] - 2 * frame), corner))
    tile.paste(small, (frame + rim, frame + rim), _rounded(small.size, corner - rim))
    place = (round(middle[0] - size[0] / 2), round(middle[1] - size[1] / 2))
    sheet.paste(tile, place, _rounded(size, corner + frame))


def _rounded(size: tuple[int, int], corner: float) -> Image.Image:
    """A mask of a rectangle with round corners, smooth at its edges."""
    mask = Image.new("L", (4 * size[0], 4 * size[1]), 0)
    box = (0, 0, 4 * size[0] - 1, 4 * size[1] - 1)
    ImageDraw.Draw(mask).rounded_rectangle(box, round(4 * max(0.0, corner)), fill=255)
    return mask.resize(size, Image.Resampling.BOX)


def _draw_legend(
    draw: ImageDraw.ImageDraw, layout: MapLayout, entries: Sequence[LegendEntry]
) -> None:
    unit = layout.unit
    left, top = layout.box[2] + round(56 * unit), layout.box[1]
    line = min(52 * unit, (layout.box[3] - top) / max(1, len(entries)))
    for number, entry in enumerate(entries):
        middle = top + (number + 0.5) * line
        radius = 11 * unit
        box = (left, middle - radius, left + 2 * radius, middle + radius)
        colour = GREY if entry.colour is None else COLOURS[entry.colour]
        draw.ellipse(box, fill=colour)
        at = (left + 38 * unit, middle)
        draw.text(at, _short(entry.text), fill=INK, font=_font(round(28 * unit)), anchor="lm")
        after = (at[0] + draw.textlength(_short(entry.text), _font(round(28 * unit))), middle)
        count = f"  {entry.count:,}"
        draw.text(after, count, fill=FAINT, font=_font(round(24 * unit)), anchor="lm")


def _line_width(entry: LegendEntry, unit: float) -> float:
    name = _font(round(28 * unit)).getlength(_short(entry.text))
    return 38 * unit + name + _font(round(24 * unit)).getlength(f"  {entry.count:,}")


def _colour(number: int, labelled: bool) -> tuple[int, int, int]:
    if number >= 0:
        return COLOURS[number]
    return GREY if labelled else ALONE


def _short(name: str) -> str:
    plain = " ".join(name.encode("utf-8", "replace").decode().split())
    return plain if len(plain) <= LONGEST_NAME else plain[: LONGEST_NAME - 1] + "…"


@cache
def _font(size: int, *, bold: bool = False) -> ImageFont.FreeTypeFont:
    """matplotlib's own copy of DejaVu: most of the world's letters."""
    from matplotlib import get_data_path

    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(str(Path(get_data_path(), "fonts", "ttf", name)), max(6, size))
