"""Pictures of attention: heat maps, masks over the photo, and all heads side by side."""

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageColor, ImageDraw, ImageFont

from dino_cli.core.masks.layout import PatchLayout

__all__ = [
    "OUTLINE",
    "PART_COLOURS",
    "Tile",
    "heat_map",
    "heat_tile",
    "overlay",
    "overlay_of_parts",
    "part_colour",
    "png",
    "point_marked",
    "rgb_of",
    "shrunk",
    "side_by_side",
    "tile_size",
    "view_of",
]

Pixels = NDArray[np.uint8]
Mask = NDArray[np.bool_]

LONGEST_VIEW = 1600  # pixels; pictures to look at need not be larger, masks keep the photo's size
OUTLINE = (255, 196, 0)
PART_COLOURS = (
    (255, 196, 0),
    (0, 200, 255),
    (255, 110, 180),
    (120, 230, 80),
    (255, 130, 40),
    (170, 140, 255),
    (240, 240, 120),
    (60, 230, 190),
)  # of objects beside each other; light, since they lie on dimmed photos
LARGEST_PLATE = 0.025  # of a picture, for a caption to be drawn
MOST_COVERED = 0.05  # of a caption's plate may hide objects
CASING = (20, 20, 20)  # around the outline, so that it shows on bright photos too
OUTSIDE = 0.38  # brightness left outside a mask
BRIGHTEST = 0.995  # the share of patches below the brightest colour of a heat map
TILE_AREA = 320 * 240
NARROWEST = 110  # room for a caption above a tile
PAPER, INK, FAINT, ACCENT = (255, 255, 255), (25, 25, 25), (130, 130, 130), (200, 90, 0)


def view_of(photo: Pixels) -> Pixels:
    """The photo (H, W, 3) for looking at, of at most 1600 pixels a side."""
    return shrunk(photo, LONGEST_VIEW)


def shrunk(picture: Pixels, side: int) -> Pixels:
    """The picture itself where no side (H, W, 3) is longer than that, else one of that size."""
    height, width = picture.shape[:2]
    scale = side / max(height, width)
    if scale >= 1:
        return picture
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return np.asarray(cv2.resize(picture, size, interpolation=cv2.INTER_AREA))


def heat_map(
    attention: NDArray[np.float32], layout: PatchLayout, palette: str = "inferno"
) -> Image.Image:
    """Attention of the patches (h, w) as a picture of the layout's photo size, in a palette.

    Each patch is one flat square: what the network said, nothing smoothed in between. Darkest is
    the least attended patch; the half per cent most attended ones are brightest, so that a single
    one does not darken all others; the trimmed border is black.
    """
    low, high = float(attention.min()), float(np.quantile(attention, BRIGHTEST))
    high = high if high > low else float(attention.max())
    scale = 255 / (high - low) if high > low else 0.0
    levels = np.rint(((attention - low) * scale).clip(0, 255)).astype(np.uint8)
    picture = Image.fromarray(np.asarray(layout.enlarge(levels), np.uint8))
    picture.putpalette(_colours(palette).tobytes())
    return picture


def rgb_of(colour: str) -> tuple[int, int, int]:
    """ "#ffc400" or "orange" → (255, 196, 0). Raises `ValueError` for what is not a colour."""
    red, green, blue = ImageColor.getrgb(colour)[:3]
    return red, green, blue


def overlay(photo: Pixels, mask: Mask, colour: tuple[int, int, int] = OUTLINE) -> Pixels:
    """The photo (H, W, 3), grey and dim outside the mask (H, W), with the mask's outline drawn."""
    return _outlined(_dimmed(photo, mask), mask, _stroke(mask.shape), colour)


def overlay_of_parts(photo: Pixels, parts: NDArray[np.integer], captions: Sequence[str]) -> Pixels:
    """As `overlay`, of several objects: parts (H, W) numbers them from 1, 0 is outside.

    Each has an outline and a box of its own colour, and its caption at the box, where that covers
    no other object and no other caption: those of the first objects come first. None in a picture
    so small that captions would hide it.
    """
    picture = _dimmed(photo, np.asarray(parts > 0))
    stroke = _stroke(parts.shape)
    boxes = []
    for number in range(len(captions), 0, -1):  # the first lies on top
        part = np.asarray(parts == number)
        picture = _outlined(picture, part, stroke, part_colour(number))
        x, y, width, height = cv2.boundingRect(part.view(np.uint8))
        corner = (x + width - 1, y + height - 1)
        cv2.rectangle(picture, (x, y), corner, part_colour(number), stroke)
        boxes.append((x, y, width, height))
    return _tagged(picture, np.asarray(parts > 0), boxes[::-1], captions)


def part_colour(number: int) -> tuple[int, int, int]:
    """Of object `number`, from 1; they repeat after `len(PART_COLOURS)`."""
    return PART_COLOURS[(number - 1) % len(PART_COLOURS)]


def point_marked(picture: Pixels, at: tuple[float, float], colour: tuple[int, int, int]) -> Pixels:
    """A copy of a picture with a ring around a point (y, x)."""
    marked = picture.copy()
    centre, radius = (round(at[1]), round(at[0])), max(4, min(picture.shape[:2]) // 30)
    cv2.circle(marked, centre, radius, CASING, 4, cv2.LINE_AA)
    cv2.circle(marked, centre, radius, colour, 2, cv2.LINE_AA)
    return marked


def _tagged(
    picture: Pixels, objects: Mask, boxes: Sequence[tuple[int, ...]], captions: Sequence[str]
) -> Pixels:
    """Captions on plates of the objects' colours, above, below or in the corner of their boxes."""
    taken = objects.copy()
    font = _font(max(12, min(picture.shape[:2]) // 26))
    sheet = Image.fromarray(picture)
    draw = ImageDraw.Draw(sheet)
    for number, ((x, y, across, down), text) in enumerate(zip(boxes, captions, strict=True), 1):
        left, top, right, bottom = font.getbbox(text)
        width, height = int(right - left) + 8, int(bottom - top) + 8
        places = [(x, y - height), (x, y + down), (x + across - width, y - height)]
        places = [at for at in places if _free(taken, at, (width, height))]
        if width * height <= across * down / 8 and not places:
            places = [(x, y)]
        if not text or not places or width * height > LARGEST_PLATE * taken.size:
            continue
        x, y = places[0]
        taken[y : y + height + 1, x : x + width + 1] = True
        draw.rectangle((x, y, x + width, y + height), fill=part_colour(number))
        draw.text((x + 4 - left, y + 4 - top), text, fill=CASING, font=font)
    return np.array(sheet)


def _free(taken: Mask, at: tuple[int, int], size: tuple[int, int]) -> bool:
    """Whether a plate at (x, y) lies in the picture and covers little of what is taken."""
    (x, y), (width, height) = at, size
    if x < 0 or y < 0 or x + width >= taken.shape[1] or y + height >= taken.shape[0]:
        return False
    return bool(taken[y : y + height + 1, x : x + width + 1].mean() < MOST_COVERED)


def _dimmed(photo: Pixels, mask: Mask) -> Pixels:
    grey = cv2.cvtColor(photo, cv2.COLOR_RGB2GRAY)
    dim = cv2.addWeighted(
        photo, OUTSIDE / 2, cv2.cvtColor(grey, cv2.COLOR_GRAY2RGB), OUTSIDE / 2, 0
    )
    cv2.copyTo(photo, mask.view(np.uint8), dim)
    return np.asarray(dim, np.uint8)


@dataclass(frozen=True)
class Tile:
    """One picture of a grid, with its caption: a bold word or two, then a remark in grey."""

    picture: Pixels
    caption: str
    remark: str = ""
    marked: bool = False


def heat_tile(
    attention: NDArray[np.float32],
    mask: Mask,
    layout: PatchLayout,
    caption: str,
    marked: bool,
    palette: str = "inferno",
) -> Tile:
    """A heat map with the outline of its mask (at the layout's photo size), for `side_by_side`."""
    heat = np.asarray(heat_map(attention, layout, palette).convert("RGB"))
    contours, _ = cv2.findContours(mask.view(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    picture = np.asarray(cv2.drawContours(heat.copy(), contours, -1, (255, 255, 255), 1))
    return Tile(picture, caption, f"max {attention.max():.3g}", marked)


def side_by_side(tiles: Sequence[Tile]) -> Pixels:
    """All tiles in one picture, each with its caption above; tiles have one size, (H, W, 3)."""
    height, width = tiles[0].picture.shape[:2]
    gap, text = 12, 18
    row, cell = text + 10 + height, max(width, NARROWEST)
    columns = min(
        range(1, len(tiles) + 1), key=lambda c: _squareness(c, len(tiles), cell + gap, row + gap)
    )
    rows = math.ceil(len(tiles) / columns)
    size = (gap + columns * (cell + gap), gap + rows * (row + gap))
    sheet = Image.new("RGB", size, PAPER)
    draw = ImageDraw.Draw(sheet)
    for i, tile in enumerate(tiles):
        x = gap + i % columns * (cell + gap)
        y = gap + i // columns * (row + gap)
        sheet.paste(Image.fromarray(tile.picture), (x, y + text + 10))
        colour = ACCENT if tile.marked else INK
        draw.text((x, y + 4), tile.caption, fill=colour, font=_font(text))
        after = x + draw.textlength(tile.caption, font=_font(text)) + 10
        if after + draw.textlength(tile.remark, font=_font(text - 4)) <= x + cell:
            draw.text((after, y + 8), tile.remark, fill=FAINT, font=_font(text - 4))
        if tile.marked:
            box = (x - 3, y + text + 7, x + width + 2, y + row + 2)
            draw.rectangle(box, outline=ACCENT, width=3)
    return np.asarray(sheet)


def tile_size(photo: tuple[int, int]) -> tuple[int, int]:
    """Height and width of a grid's tiles: the photo's aspect, at most 16 : 1, on a common area."""
    aspect = min(16.0, max(1 / 16, photo[1] / photo[0]))
    height = math.sqrt(TILE_AREA / aspect)
    return round(height), round(height * aspect)


def png(picture: Pixels | Mask | Image.Image) -> bytes:
    """Encoded quickly rather than tightly; a mask becomes 0 and 255."""
    if isinstance(picture, Image.Image):
        buffer = io.BytesIO()
        picture.save(buffer, "PNG", compress_level=1)
        return buffer.getvalue()
    if picture.dtype == bool:
        picture = picture.view(np.uint8) * np.uint8(255)
    channels = cv2.cvtColor(picture, cv2.COLOR_RGB2BGR) if picture.ndim == 3 else picture
    _, encoded = cv2.imencode(".png", channels, _png_options())
    return encoded.tobytes()


def _outlined(picture: Pixels, mask: Mask, stroke: int, colour: tuple[int, int, int]) -> Pixels:
    contours, _ = cv2.findContours(mask.view(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    cv2.drawContours(picture, contours, -1, CASING, stroke + 2, cv2.LINE_AA)
    cv2.drawContours(picture, contours, -1, colour, stroke, cv2.LINE_AA)
    return picture


@cache
def _png_options() -> list[int]:
    options = [cv2.IMWRITE_PNG_COMPRESSION, 1]
    if hasattr(cv2, "IMWRITE_PNG_FILTER"):  # one filter instead of the best of five: twice as fast
        options += [cv2.IMWRITE_PNG_FILTER, cv2.IMWRITE_PNG_FILTER_UP]
    return options


def _stroke(size: tuple[int, ...]) -> int:
    return max(1, round(min(size[:2]) / 200))


def _squareness(columns: int, count: int, width: int, height: int) -> float:
    rows = math.ceil(count / columns)
    empty = rows * columns - count
    return abs(math.log(columns * width / (rows * height) / 1.5)) + 0.6 * empty


@cache
def _colours(palette: str) -> NDArray[np.uint8]:
    """256 colours, RGB, from low to high."""
    ramp = np.arange(256, dtype=np.uint8).reshape(-1, 1)
    if palette == "grey":
        return np.repeat(ramp, 3, axis=1)
    bgr = cv2.applyColorMap(ramp, getattr(cv2, f"COLORMAP_{palette.upper()}"))
    return np.ascontiguousarray(np.asarray(bgr, np.uint8)[:, 0, ::-1])


@cache
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)
