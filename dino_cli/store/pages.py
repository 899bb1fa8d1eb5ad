"""Pages in one HTML file: templates with escaped values, pictures inside as data URIs.

A page asks nobody for anything: no scripts, no fonts, no links to other files; it can be mailed.
The templates lie in `templates/`; `base.html.j2` has the look, `parts.html.j2` the pieces.
"""

import base64
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from numpy.typing import NDArray
from PIL import Image

from dino_cli.core.masks.layout import PatchLayout
from dino_cli.store.pictures.figures import heat_map
from dino_cli.store.writing.atomic import atomic_write

__all__ = ["Chart", "Picture", "cut_out", "heat", "line_chart", "picture", "render", "write_page"]

TEMPLATES = Path(__file__).with_name("templates")
QUALITY = 85  # of JPEG: no difference to be seen in a tile of 256 pixels
OUTSIDE = 0.3  # brightness left outside a mask


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A picture inside a page. uri: `data:…`; alt: what it shows, for those who do not see it."""

    uri: str
    width: int
    height: int
    alt: str


def picture(pixels: NDArray[np.uint8] | Image.Image, alt: str, *, exact: bool = False) -> Picture:
    """RGB pixels (H, W, 3) or a PIL image as JPEG, or `exact` as PNG."""
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    buffer = io.BytesIO()
    if exact:
        image.save(buffer, "PNG", optimize=True)
    else:
        image.convert("RGB").save(buffer, "JPEG", quality=QUALITY, optimize=True)
    kind = "png" if exact else "jpeg"
    uri = f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"
    return Picture(uri=uri, width=image.width, height=image.height, alt=alt)


def heat(attention: NDArray[np.float32], alt: str, palette: str = "inferno") -> Picture:
    """Attention of the patches (h, w) as a heat map of one pixel each, a few hundred bytes.

    The browser enlarges it and smooths a little, which is easier on the eye than squares.
    """
    size = (attention.shape[0], attention.shape[1])
    return picture(heat_map(attention, PatchLayout(size, size, 1), palette), alt, exact=True)


def cut_out(photo: NDArray[np.uint8], mask: NDArray[np.bool_], alt: str) -> Picture:
    """The photo (H, W, 3), dark and grey outside a mask of patches or pixels (h, w).

    Without the outline of `figures.overlay`, which would fill a tile of a hundred pixels.
    """
    size = (mask.shape[0], mask.shape[1])
    large = PatchLayout((photo.shape[0], photo.shape[1]), size, 1).enlarge(mask)
    grey = photo.mean(axis=2, keepdims=True)
    dim = (OUTSIDE * (photo + grey) / 2).astype(np.uint8)
    return picture(np.where(np.asarray(large, bool)[..., None], photo, dim), alt)


@dataclass(frozen=True, kw_only=True)
class Chart:
    """A line chart in the coordinates of an SVG of `width` × `height`.

    line: of points `x,y`; dots: the points, when they are few; x_ticks, y_ticks: (place, label).
    """

    width: int
    height: int
    line: str
    dots: tuple[tuple[float, float], ...]
    x_ticks: tuple[tuple[float, str], ...]
    y_ticks: tuple[tuple[float, str], ...]
    x_label: str
    y_label: str
    alt: str


SIZE = (520, 240)  # of a chart, width and height
MARGIN = (14, 16, 44, 52)  # top, right, bottom, left
FEW = 40


def line_chart(
    x: Sequence[float],
    y: Sequence[float],
    *,
    x_label: str,
    y_label: str,
    alt: str,
    y_range: tuple[float, float] | None = None,
) -> Chart:
    """Values y at x. y_range: of the axis; else from 0 to a round number above the largest.

    Values that are not finite are left out. Raises `ValueError` when none is left.
    """
    points = [(a, b) for a, b in zip(x, y, strict=True) if math.isfinite(a) and math.isfinite(b)]
    if not points:
        raise ValueError("a chart needs at least one finite value")
    width, height = SIZE
    top, right, bottom, left = MARGIN
    x_marks = _ticks(min(a for a, _ in points), max(a for a, _ in points), 8)
    y_marks = _ticks(
        *(y_range or (min(0.0, *(b for _, b in points)), max(b for _, b in points))), 5
    )

    def across(value: float) -> float:
        low, high = min(x_marks[0], points[0][0]), max(x_marks[-1], points[-1][0])
        return round(left + (value - low) / ((high - low) or 1) * (width - left - right), 1)

    def up(value: float) -> float:
        low, high = y_marks[0], y_marks[-1]
        return round(height - bottom - (value - low) / (high - low) * (height - top - bottom), 1)

    placed = tuple((across(a), up(b)) for a, b in points)
    return Chart(
        width=width,
        height=height,
        line=" ".join(f"{a:g},{b:g}" for a, b in placed),
        dots=placed if len(placed) <= FEW else (),
        x_ticks=tuple((across(v), f"{v:,.10g}") for v in x_marks),
        y_ticks=tuple((up(v), f"{v:,.10g}") for v in y_marks),
        x_label=x_label,
        y_label=y_label,
        alt=alt,
    )


def _ticks(low: float, high: float, most: int) -> list[float]:
    """Round numbers, at most `most` + 1, the first not above low, the last not below high."""
    if high <= low:
        high = low + 1
    rough = (high - low) / most
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1, 2, 5, 10, 20) if _spans(low, high, m * power) <= most)
    return [i * step for i in range(math.floor(low / step), math.ceil(high / step - 1e-9) + 1)]


def _spans(low: float, high: float, step: float) -> int:
    return math.ceil(high / step - 1e-9) - math.floor(low / step)


@cache
def _environment() -> Environment:
    # StrictUndefined: a value that a template misses is a bug, not an empty place on a page.
    return Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def render(template: str, values: Mapping[str, Any]) -> str:
    """The page that `templates/<template>.html.j2` makes of the values, all of them escaped."""
    return _environment().get_template(f"{template}.html.j2").render(**values)


def write_page(path: Path, template: str, values: Mapping[str, Any]) -> None:
    """Render a page to `path`; it appears whole or not at all. Raises `OSError`."""
    text = render(template, values)
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="replace")
