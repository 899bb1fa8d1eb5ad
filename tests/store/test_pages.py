"""Pages: values are escaped, pictures are inside, nothing is fetched."""

import base64
import errno
import io
import re
from pathlib import Path

import numpy as np
import pytest
from jinja2 import DictLoader, UndefinedError
from page_reader import levels
from PIL import Image

from dino_cli.store import pages
from dino_cli.store.pages import cut_out, heat, line_chart, picture, render, write_page


def decoded(one):
    kind, _, content = one.uri.partition(";base64,")
    return kind, Image.open(io.BytesIO(base64.b64decode(content)))


@pytest.fixture
def templates(monkeypatch):
    """Templates of the test's own, in the environment that pages use."""
    known = {}
    monkeypatch.setattr(pages._environment(), "loader", DictLoader(known))
    monkeypatch.setattr(pages._environment(), "cache", None)
    return known


def test_values_are_escaped(templates):
    templates["t.html.j2"] = '<p title="{{ name }}">{{ name }}</p>'
    page = render("t", {"name": '<script>alert("x")</script>'})
    assert "<script" not in page
    assert page.count("&lt;script&gt;") == 2
    assert page.count('"') == 2


def test_a_missing_value_is_no_empty_place(templates):
    templates["t.html.j2"] = "{{ nobody }}"
    with pytest.raises(UndefinedError):
        render("t", {})


def test_names_in_pictures_and_charts_are_escaped():
    hostile = '"><script>'
    chart = line_chart([0, 1], [1, 2], x_label=hostile, y_label=hostile, alt=hostile)
    tile = picture(np.zeros((2, 2, 3), np.uint8), hostile)
    parts = pages._environment().get_template("parts.html.j2").module
    for html in (parts.image(tile), parts.line_chart(chart), parts.tile(tile, hostile)):
        assert "<script" not in html
        assert "&lt;script&gt;" in html


def test_a_page_appears_whole_or_not_at_all(tmp_path, templates, monkeypatch):
    templates["t.html.j2"] = "<p>{{ one }}</p>{{ two }}"
    path = tmp_path / "page.html"
    with pytest.raises(UndefinedError):
        write_page(path, "t", {"one": 1})
    assert list(tmp_path.iterdir()) == []
    write_page(path, "t", {"one": 1, "two": "é"})
    assert path.read_text(encoding="utf-8") == "<p>1</p>é"

    def full(self, _text, **_options):
        self.write_bytes(b"<p>")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(OSError, match="No space"):
        write_page(path, "t", {"one": 2, "two": 2})
    assert path.read_bytes() == "<p>1</p>é".encode()
    assert list(tmp_path.iterdir()) == [path]


def test_a_page_of_names_that_are_no_utf8(tmp_path, templates):
    templates["t.html.j2"] = "{{ name }}"
    write_page(tmp_path / "page.html", "t", {"name": "caf\udce9"})
    assert (tmp_path / "page.html").read_text(encoding="utf-8") == "caf?"


def test_every_template_is_self_contained():
    found = sorted(pages.TEMPLATES.glob("*.j2"))
    assert {"base.html.j2", "demo.html.j2", "parts.html.j2"} <= {path.name for path in found}
    for path in found:
        text = path.read_text()
        assert not re.search(r"https?://|<script|@import|url\(", text), path.name


def test_pictures_are_data_uris_of_what_they_show():
    pixels = np.random.default_rng(0).integers(0, 255, (5, 7, 3)).astype(np.uint8)
    kind, image = decoded(picture(pixels, "noise", exact=True))
    assert kind == "data:image/png"
    assert np.array_equal(np.asarray(image), pixels)
    flat = picture(np.full((8, 8, 3), 200, np.uint8), "grey")
    kind, image = decoded(flat)
    assert (kind, flat.width, flat.height) == ("data:image/jpeg", 8, 8)
    assert abs(np.asarray(image).astype(int) - 200).max() <= 2
    wide = picture(Image.new("RGBA", (9, 4), (200, 0, 0, 255)), "red, of another mode")
    assert (wide.width, wide.height) == decoded(wide)[1].size == (9, 4)


def test_a_heat_map_is_brightest_where_attention_is():
    attention = np.zeros((3, 4), np.float32)
    attention[1, 2] = 1
    one = heat(attention, "head")
    bright = np.asarray(decoded(one)[1].convert("L")).astype(int)
    assert (one.height, one.width) == bright.shape == (3, 4)
    assert np.unravel_index(bright.argmax(), bright.shape) == (1, 2)
    assert bright[1, 2] > 200
    assert bright.sum() - bright[1, 2] < 50
    shown = np.asarray(decoded(heat(attention, "head", "viridis"))[1].convert("RGB"))
    assert levels(shown, "viridis")[1, 2] == 255


def test_a_cut_out_keeps_the_masked_patches():
    photo = np.full((64, 96, 3), (200, 100, 40), np.uint8)
    mask = np.array([[True, False], [False, False]])
    shown = np.asarray(decoded(cut_out(photo, mask, ""))[1]).astype(int)
    assert shown.shape == photo.shape
    assert abs(shown[:24, :40] - photo[:24, :40]).max() < 12
    dark, darker, darkest = shown[40:, 56:].mean(axis=(0, 1))
    assert 55 > dark > darker > darkest > 18, "dark, and half way to grey"


def test_a_chart_puts_values_in_their_places():
    chart = line_chart([0, 10, 20], [0.0, 4.0, 2.0], x_label="step", y_label="loss", alt="")
    assert [label for _, label in chart.y_ticks] == ["0", "1", "2", "3", "4"]
    assert chart.x_ticks[0][1] == "0"
    assert chart.x_ticks[-1][1] == "20"
    (x0, y0), (x1, y1), (x2, y2) = chart.dots
    at = {label: place for place, label in chart.y_ticks}
    assert (y0, y1, y2) == (at["0"], at["4"], at["2"])
    assert y1 < y2 < y0  # SVG counts downwards
    assert x1 - x0 == pytest.approx(x2 - x1, abs=0.2)
    assert all(0 < x < chart.width and 0 < y < chart.height for x, y in chart.dots)


def test_a_chart_has_round_labels_on_both_sides_of_its_values():
    chart = line_chart([300, 11_700], [-2.0, -0.1], x_label="", y_label="", alt="")
    assert (chart.x_ticks[0][1], chart.x_ticks[-1][1]) == ("0", "12,000")
    (x0, y0), (x1, y1) = chart.dots
    assert chart.x_ticks[0][0] == pages.MARGIN[3] < x0
    assert x1 < chart.x_ticks[-1][0] == chart.width - pages.MARGIN[1]
    assert [label for _, label in chart.y_ticks] == ["-2", "-1.5", "-1", "-0.5", "0"]
    assert chart.y_ticks[0][0] == y0 > y1 > chart.y_ticks[-1][0]
    near = line_chart([0, 1], [0.9, 1], x_label="", y_label="", alt="", y_range=(0.9, 1))
    assert near.y_ticks[0][1] == "0.9"


@pytest.mark.parametrize(("count", "shown"), [(40, 40), (41, 0)])
def test_a_chart_has_dots_for_few_values(count, shown):
    chart = line_chart(range(count), range(count), x_label="", y_label="", alt="")
    assert len(chart.dots) == shown
    assert chart.line.count(",") == count


@pytest.mark.parametrize(
    ("low", "high"), [(0, 1), (3.1, 3.2), (-2, 5), (0, 12_000), (1, 40), (7, 7), (0.04, 0.14)]
)
def test_ticks_are_round_and_enclose_the_values(low, high):
    ticks = pages._ticks(low, high, 5)
    assert ticks[0] <= low
    assert ticks[-1] >= high
    assert 2 <= len(ticks) <= 7
    steps = np.diff(ticks)
    assert steps == pytest.approx(steps[0])
    assert round(steps[0] / 10 ** np.floor(np.log10(steps[0]))) in (1, 2, 5, 10)
    assert ticks[-2] < high - 1e-9 < ticks[-1] or low == high


def test_a_chart_leaves_out_what_is_not_finite():
    chart = line_chart([0, 1, 2], [1.0, float("nan"), 2.0], x_label="", y_label="", alt="")
    assert len(chart.dots) == 2
    chart = line_chart([0, 1, float("inf")], [1.0, 3.0, 2.0], x_label="", y_label="", alt="")
    assert len(chart.dots) == 2
    with pytest.raises(ValueError, match="finite"):
        line_chart([0], [float("inf")], x_label="", y_label="", alt="")
