"""What a page says and shows, as a reader of it sees both."""

import base64
import io
from html.parser import HTMLParser
from pathlib import Path

import matplotlib as mpl
import numpy as np
from PIL import Image


class Page(HTMLParser):
    """tags: names with attributes; words: the text without them; pictures: RGB, by alt text."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags, self.words = [], ""
        self.feed(path.read_text())
        self.words = " ".join(self.words.split())

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, data):
        self.words += data

    def pictures(self, alt: str) -> list[np.ndarray]:
        """Those of this alt text, in their order."""
        found = [a for tag, a in self.tags if tag == "img" and a["alt"] == alt]
        for one in found:
            size = int(one["width"]), int(one["height"])
            assert _opened(one["src"]).size == size
        return [np.asarray(_opened(one["src"]).convert("RGB")).astype(int) for one in found]


def _opened(uri: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(uri.partition(";base64,")[2])))


def levels(picture: np.ndarray, palette: str) -> np.ndarray:
    """Where the colours of a picture (H, W, 3) stand in a palette of matplotlib, 0 to 255."""
    colours = mpl.colormaps[palette](np.arange(256), bytes=True)[:, :3].astype(int)
    away = np.abs(picture[:, :, None].astype(int) - colours).max(-1)
    assert away.min(-1).max() <= 1, f"not only colours of {palette}"
    return away.argmin(-1)


def rises_with(shown: np.ndarray, values: np.ndarray) -> bool:
    """Whether levels rise with the values, but for rounding, and use the whole palette."""
    order = shown.ravel()[values.ravel().argsort()]
    falls = np.maximum.accumulate(order) - order
    return bool(falls.max() <= 2 and order[0] <= 1 and order[-1] >= 254)
